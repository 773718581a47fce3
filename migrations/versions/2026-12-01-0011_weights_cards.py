"""model cards of registered weights, and results whose objects are gone

Revision: 8b0f2c64d917, after 5c1d7e0b9a42
"""

from alembic import op

revision = "8b0f2c64d917"
down_revision = "5c1d7e0b9a42"
branch_labels = None
depends_on = None

# A change that waits longer for a lock than this would make all later queries wait too.
LOCK_TIMEOUT = "2s"


def upgrade() -> None:
    op.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
    op.execute(
        "CREATE TABLE weights_card ("
        "sha256 text PRIMARY KEY, name text NOT NULL, words text[] NOT NULL, note text NOT NULL)"
    )
    op.execute("ALTER TABLE result ADD COLUMN objects_lost_at timestamptz")


def downgrade() -> None:
    op.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
    op.execute("ALTER TABLE result DROP COLUMN objects_lost_at")
    op.execute("DROP TABLE weights_card")
