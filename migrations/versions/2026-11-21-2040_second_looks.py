"""second looks

Revision: c2a5f08e7b16, after 9e41c7d03b58
"""

import sqlalchemy as sa
from alembic import op

revision = "c2a5f08e7b16"
down_revision = "9e41c7d03b58"
branch_labels = None
depends_on = None

# A change that has to wait longer for a lock than this would make everyone behind it wait too.
LOCK_TIMEOUT = "2s"


def upgrade() -> None:
    op.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
    op.add_column("prediction", sa.Column("looks", sa.SmallInteger(), server_default="0", nullable=False))
    op.add_column("prediction", sa.Column("look_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(
        "prediction_look_idx",
        "prediction",
        ["instance", "look_at"],
        postgresql_where=sa.text("state = 'sent' AND look_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
    op.drop_index("prediction_look_idx", table_name="prediction")
    op.drop_column("prediction", "look_at")
    op.drop_column("prediction", "looks")
