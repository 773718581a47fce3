"""tokenizers of registered models

Revision: 5c1d7e0b9a42, after 48409f042d3a
"""

from alembic import op

revision = "5c1d7e0b9a42"
down_revision = "48409f042d3a"
branch_labels = None
depends_on = None

# A change that waits longer for a lock than this would make all later queries wait too.
LOCK_TIMEOUT = "2s"


def upgrade() -> None:
    op.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
    op.execute("ALTER TABLE worker_model ADD COLUMN tokenizers jsonb DEFAULT '{}' NOT NULL")


def downgrade() -> None:
    op.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
    op.execute("ALTER TABLE worker_model DROP COLUMN tokenizers")
