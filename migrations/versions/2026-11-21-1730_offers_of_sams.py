"""offers of sams

Revision: 9e41c7d03b58, after 69ef2b51929d
"""

import sqlalchemy as sa
from alembic import op

revision = "9e41c7d03b58"
down_revision = "69ef2b51929d"
branch_labels = None
depends_on = None

# A change that has to wait longer for a lock than this would make everyone behind it wait too.
LOCK_TIMEOUT = "2s"


def upgrade() -> None:
    op.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
    op.add_column("offer", sa.Column("sam", sa.Text(), server_default="", nullable=False))
    op.drop_constraint(op.f("offer_pkey"), "offer", type_="primary")
    op.create_primary_key(op.f("offer_pkey"), "offer", ["proposal", "classifier", "sam"])


def downgrade() -> None:
    op.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
    # The next worker that loads a SAM tells it again.
    op.execute("DELETE FROM offer WHERE sam <> ''")
    op.drop_constraint(op.f("offer_pkey"), "offer", type_="primary")
    op.drop_column("offer", "sam")
    op.create_primary_key(op.f("offer_pkey"), "offer", ["proposal", "classifier"])
