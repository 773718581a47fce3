"""label studio projects

Revision: 69ef2b51929d, after 63be0e546f33
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "69ef2b51929d"
down_revision = "63be0e546f33"
branch_labels = None
depends_on = None

# A change that has to wait longer for a lock than this would make everyone behind it wait too.
LOCK_TIMEOUT = "2s"


def upgrade() -> None:
    op.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
    op.create_table(
        "offer",
        sa.Column("proposal", sa.Text(), nullable=False),
        sa.Column("classifier", sa.Text(), nullable=False),
        sa.Column("weights", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("offered_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("proposal", "classifier", name=op.f("offer_pkey")),
    )
    op.create_table(
        "project",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("stamp", sa.Text(), server_default="", nullable=False),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("label_config", sa.Text(), nullable=False),
        sa.Column("extra_params", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("regions", sa.Text(), nullable=False),
        sa.Column("problems", postgresql.JSONB(astext_type=sa.Text()), server_default="[]", nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("setup_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("predict_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("webhook_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("sync_wanted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("sync_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("sync_worker", sa.Text(), nullable=True),
        sa.Column("sync_cursor", sa.BigInteger(), nullable=True),
        sa.Column("sync_seen", sa.Integer(), server_default="0", nullable=False),
        sa.Column("sync_total", sa.Integer(), nullable=True),
        sa.Column("sync_failures", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("sync_error", sa.Text(), nullable=True),
        sa.Column("synced_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("project_job_id_fkey"), ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name=op.f("project_pkey")),
        sa.UniqueConstraint("instance", "number", name=op.f("project_instance_number_key")),
    )
    op.create_index(op.f("project_job_id_idx"), "project", ["job_id"], unique=False)
    op.create_index(op.f("project_stamp_idx"), "project", ["stamp"], unique=False)
    op.create_index(
        "project_sync_idx",
        "project",
        ["sync_wanted_at"],
        unique=False,
        postgresql_where=sa.text("sync_wanted_at IS NOT NULL"),
    )
    op.create_table(
        "annotation",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("task", sa.BigInteger(), nullable=False),
        sa.Column("annotation", sa.BigInteger(), nullable=False),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("not_before", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("state IN ('pending', 'done', 'failed')", name=op.f("annotation_state_check")),
        sa.ForeignKeyConstraint(
            ["project_id"], ["project.id"], name=op.f("annotation_project_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("annotation_pkey")),
        sa.UniqueConstraint("project_id", "annotation", name=op.f("annotation_project_id_annotation_key")),
    )
    op.create_index(
        "annotation_pending_idx",
        "annotation",
        ["not_before", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_table(
        "task",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("task", sa.BigInteger(), nullable=False),
        sa.Column("item_id", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["item_id"], ["item.id"], name=op.f("task_item_id_fkey"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("task_job_id_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "task", name=op.f("task_pkey")),
    )
    op.create_index(op.f("task_item_id_idx"), "task", ["item_id"], unique=False)
    op.create_table(
        "feedback",
        sa.Column("annotation_id", sa.BigInteger(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("prompts", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.Column("result_id", sa.Uuid(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("iou", sa.Double(), nullable=True),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('accepted', 'changed', 'rejected', 'missed')", name=op.f("feedback_outcome_check")
        ),
        sa.ForeignKeyConstraint(
            ["annotation_id"], ["annotation.id"], name=op.f("feedback_annotation_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["result_id"], ["result.id"], name=op.f("feedback_result_id_fkey")),
        sa.PrimaryKeyConstraint("annotation_id", "label", name=op.f("feedback_pkey")),
    )
    op.create_index(op.f("feedback_result_id_idx"), "feedback", ["result_id"], unique=False)
    op.add_column("item", sa.Column("vocabulary_id", sa.Uuid(), nullable=True))
    op.add_column("item", sa.Column("task", sa.BigInteger(), nullable=True))
    op.drop_constraint(op.f("item_job_id_uri_etag_key"), "item", type_="unique")
    op.create_unique_constraint(
        op.f("item_job_id_uri_etag_vocabulary_id_key"),
        "item",
        ["job_id", "uri", "etag", "vocabulary_id"],
        postgresql_nulls_not_distinct=True,
    )
    op.create_foreign_key(op.f("item_vocabulary_id_fkey"), "item", "vocabulary", ["vocabulary_id"], ["id"])
    op.add_column("prediction", sa.Column("failures", sa.SmallInteger(), server_default="0", nullable=False))
    op.add_column("prediction", sa.Column("worker", sa.Text(), nullable=True))
    op.add_column("prediction", sa.Column("document", sa.Text(), nullable=True))
    op.add_column("prediction", sa.Column("score", sa.Double(), nullable=True))
    op.add_column("prediction", sa.Column("attempted_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("prediction", sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True))
    op.drop_index("prediction_pending_idx", table_name="prediction", postgresql_where=sa.text("state = 'pending'"))
    op.create_index(
        "prediction_pending_idx",
        "prediction",
        ["instance", "not_before", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_index(
        "prediction_unrendered_idx",
        "prediction",
        ["not_before", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'pending' AND document IS NULL"),
    )
    op.create_index(
        "prediction_answered_idx",
        "prediction",
        ["sent_at"],
        unique=False,
        postgresql_where=sa.text("state = 'sent' AND prediction IS NULL AND document IS NOT NULL"),
    )
    op.execute("UPDATE prediction SET not_before = created_at WHERE not_before IS NULL")
    op.alter_column(
        "prediction",
        "not_before",
        existing_type=postgresql.TIMESTAMP(timezone=True),
        server_default=sa.text("now()"),
        nullable=False,
    )


def downgrade() -> None:
    op.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
    op.alter_column(
        "prediction",
        "not_before",
        existing_type=postgresql.TIMESTAMP(timezone=True),
        server_default=None,
        nullable=True,
    )
    op.drop_index(
        "prediction_answered_idx",
        table_name="prediction",
        postgresql_where=sa.text("state = 'sent' AND prediction IS NULL AND document IS NOT NULL"),
    )
    op.drop_index(
        "prediction_unrendered_idx",
        table_name="prediction",
        postgresql_where=sa.text("state = 'pending' AND document IS NULL"),
    )
    op.drop_index("prediction_pending_idx", table_name="prediction", postgresql_where=sa.text("state = 'pending'"))
    op.create_index(
        "prediction_pending_idx",
        "prediction",
        ["not_before", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.drop_column("prediction", "sent_at")
    op.drop_column("prediction", "attempted_at")
    op.drop_column("prediction", "score")
    op.drop_column("prediction", "document")
    op.drop_column("prediction", "worker")
    op.drop_column("prediction", "failures")
    op.drop_constraint(op.f("item_vocabulary_id_fkey"), "item", type_="foreignkey")
    op.drop_constraint(op.f("item_job_id_uri_etag_vocabulary_id_key"), "item", type_="unique")
    op.create_unique_constraint(
        op.f("item_job_id_uri_etag_key"), "item", ["job_id", "uri", "etag"], postgresql_nulls_not_distinct=False
    )
    op.drop_column("item", "task")
    op.drop_column("item", "vocabulary_id")
    op.drop_index(op.f("feedback_result_id_idx"), table_name="feedback")
    op.drop_table("feedback")
    op.drop_index(op.f("task_item_id_idx"), table_name="task")
    op.drop_table("task")
    op.drop_index("annotation_pending_idx", table_name="annotation", postgresql_where=sa.text("state = 'pending'"))
    op.drop_table("annotation")
    op.drop_index("project_sync_idx", table_name="project", postgresql_where=sa.text("sync_wanted_at IS NOT NULL"))
    op.drop_index(op.f("project_stamp_idx"), table_name="project")
    op.drop_index(op.f("project_job_id_idx"), table_name="project")
    op.drop_table("project")
    op.drop_table("offer")
