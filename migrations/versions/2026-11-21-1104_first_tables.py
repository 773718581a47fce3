"""first tables

Revision: 63be0e546f33, after
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "63be0e546f33"
down_revision = None
branch_labels = None
depends_on = None

# A change that has to wait longer for a lock than this would make everyone behind it wait too.
LOCK_TIMEOUT = "2s"


def upgrade() -> None:
    op.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
    op.create_table(
        "api_key",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("api_key_pkey")),
        sa.UniqueConstraint("prefix", name=op.f("api_key_prefix_key")),
    )
    op.create_table(
        "image",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("notes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("preview_key", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("image_pkey")),
        sa.UniqueConstraint("sha256", name=op.f("image_sha256_key")),
    )
    op.create_table(
        "recipe",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("document", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("recipe_pkey")),
        sa.UniqueConstraint("digest", name=op.f("recipe_digest_key")),
    )
    op.create_table(
        "reservation",
        sa.Column("run_key", sa.Text(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("run_key", name=op.f("reservation_pkey")),
    )
    op.create_index(op.f("reservation_worker_idx"), "reservation", ["worker"], unique=False)
    op.create_table(
        "vocabulary",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("document", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("vocabulary_pkey")),
        sa.UniqueConstraint("digest", name=op.f("vocabulary_digest_key")),
    )
    op.create_table(
        "worker",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("weights", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("code_version", sa.Text(), nullable=False),
        sa.Column("finished", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("worker_pkey")),
    )
    op.create_table(
        "job",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("source", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("vocabulary_id", sa.Uuid(), nullable=False),
        sa.Column("recipe_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("api_key_id", sa.Uuid(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("request_digest", sa.Text(), nullable=True),
        sa.Column("cursor", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("lister", sa.Text(), nullable=True),
        sa.Column("listing_attempt", sa.Integer(), nullable=False),
        sa.Column("listing_failures", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("listing_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("listed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancelled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("tally", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("kind IN ('bulk', 'label_studio', 'api')", name=op.f("job_kind_check")),
        sa.CheckConstraint("lane IN ('interactive', 'bulk')", name=op.f("job_lane_check")),
        sa.ForeignKeyConstraint(["api_key_id"], ["api_key.id"], name=op.f("job_api_key_id_fkey")),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipe.id"], name=op.f("job_recipe_id_fkey")),
        sa.ForeignKeyConstraint(["vocabulary_id"], ["vocabulary.id"], name=op.f("job_vocabulary_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("job_pkey")),
        sa.UniqueConstraint("api_key_id", "idempotency_key", name=op.f("job_api_key_id_idempotency_key_key")),
    )
    op.create_index(op.f("job_created_at_id_idx"), "job", ["created_at", "id"], unique=False)
    op.create_index(op.f("job_recipe_id_idx"), "job", ["recipe_id"], unique=False)
    op.create_index("job_unfinished_idx", "job", ["id"], unique=False, postgresql_where=sa.text("finished_at IS NULL"))
    op.create_index(
        "job_unlisted_idx",
        "job",
        ["id"],
        unique=False,
        postgresql_where=sa.text("listed_at IS NULL AND finished_at IS NULL"),
    )
    op.create_index(op.f("job_vocabulary_id_idx"), "job", ["vocabulary_id"], unique=False)
    op.create_table(
        "result",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("run_key", sa.Text(), nullable=False),
        sa.Column("image_id", sa.BigInteger(), nullable=False),
        sa.Column("vocabulary_id", sa.Uuid(), nullable=False),
        sa.Column("recipe_id", sa.Uuid(), nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.Column("weights", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("code_version", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("stop_reason", sa.Text(), nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("top_score", sa.Double(), nullable=True),
        sa.Column("timings", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("work", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("masks_key", sa.Text(), nullable=False),
        sa.Column("labelmap_key", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"], name=op.f("result_image_id_fkey")),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipe.id"], name=op.f("result_recipe_id_fkey")),
        sa.ForeignKeyConstraint(["vocabulary_id"], ["vocabulary.id"], name=op.f("result_vocabulary_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("result_pkey")),
        sa.UniqueConstraint("run_key", name=op.f("result_run_key_key")),
    )
    op.create_index(op.f("result_image_id_idx"), "result", ["image_id"], unique=False)
    op.create_index("result_model_version_idx", "result", ["model_version", sa.literal_column("id DESC")], unique=False)
    op.create_index(op.f("result_recipe_id_idx"), "result", ["recipe_id"], unique=False)
    op.create_index("result_top_score_idx", "result", ["top_score", "id"], unique=False)
    op.create_index("result_vocabulary_idx", "result", ["vocabulary_id", sa.literal_column("id DESC")], unique=False)
    op.create_table(
        "vocabulary_version",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("vocabulary_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["vocabulary_id"], ["vocabulary.id"], name=op.f("vocabulary_version_vocabulary_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("vocabulary_version_pkey")),
        sa.UniqueConstraint("name", "version", name=op.f("vocabulary_version_name_version_key")),
    )
    op.create_index(op.f("vocabulary_version_vocabulary_id_idx"), "vocabulary_version", ["vocabulary_id"], unique=False)
    op.create_table(
        "item",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("lane", sa.SmallInteger(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("etag", sa.Text(), server_default="", nullable=False),
        sa.Column("state", sa.Text(), server_default="queued", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lost", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("failures", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("alone", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("result_id", sa.Uuid(), nullable=True),
        sa.Column("reused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'done', 'failed', 'dead', 'cancelled')", name=op.f("item_state_check")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("item_job_id_fkey"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["result_id"], ["result.id"], name=op.f("item_result_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("item_pkey")),
        sa.UniqueConstraint("job_id", "uri", "etag", name=op.f("item_job_id_uri_etag_key")),
    )
    op.create_index(
        "item_job_done_idx",
        "item",
        ["job_id", sa.literal_column("id DESC"), "result_id"],
        unique=False,
        postgresql_where=sa.text("result_id IS NOT NULL"),
    )
    op.create_index("item_job_finished_idx", "item", ["job_id", "finished_at"], unique=False)
    op.create_index(
        "item_job_state_idx", "item", ["job_id", "state", "id"], unique=False, postgresql_include=["reused"]
    )
    op.create_index(
        "item_queued_idx",
        "item",
        ["lane", "not_before", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "item_result_idx",
        "item",
        ["result_id", "job_id", "id"],
        unique=False,
        postgresql_where=sa.text("result_id IS NOT NULL"),
    )
    op.create_index(
        "item_running_idx", "item", ["leased_until"], unique=False, postgresql_where=sa.text("state = 'running'")
    )
    op.create_index("item_worker_idx", "item", ["worker"], unique=False, postgresql_where=sa.text("state = 'running'"))
    op.create_table(
        "mask",
        sa.Column("result_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("x", sa.Integer(), nullable=False),
        sa.Column("y", sa.Integer(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("area", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["result_id"], ["result.id"], name=op.f("mask_result_id_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("result_id", "position", name=op.f("mask_pkey")),
    )
    op.create_index(
        "mask_label_idx",
        "mask",
        ["label", sa.literal_column("result_id DESC")],
        unique=True,
        postgresql_include=["score"],
    )
    op.create_index("mask_label_score_idx", "mask", ["label", "score", "result_id"], unique=False)
    op.create_table(
        "query_step",
        sa.Column("result_id", sa.Uuid(), nullable=False),
        sa.Column("within", sa.Text(), nullable=False),
        sa.Column("step", sa.SmallInteger(), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("query", sa.Text(), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("kept", sa.Boolean(), nullable=False),
        sa.Column("area", sa.BigInteger(), nullable=False),
        sa.Column("iou_previous", sa.Double(), nullable=True),
        sa.Column("rival", sa.Text(), nullable=True),
        sa.Column("rival_score", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["result_id"], ["result.id"], name=op.f("query_step_result_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("result_id", "within", "step", "position", name=op.f("query_step_pkey")),
    )
    op.create_index(
        "query_step_dropped_at_idx",
        "query_step",
        ["step", sa.literal_column("result_id DESC"), "label"],
        unique=False,
        postgresql_where=sa.text("NOT kept"),
    )
    op.create_index(
        "query_step_dropped_idx",
        "query_step",
        ["label", sa.literal_column("result_id DESC"), "step"],
        unique=False,
        postgresql_where=sa.text("NOT kept"),
    )
    op.create_table(
        "prediction",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("project", sa.Integer(), nullable=False),
        sa.Column("task", sa.BigInteger(), nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.Column("item_id", sa.BigInteger(), nullable=False),
        sa.Column("result_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("prediction", sa.BigInteger(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("state IN ('pending', 'sent', 'failed', 'orphaned')", name=op.f("prediction_state_check")),
        sa.ForeignKeyConstraint(["item_id"], ["item.id"], name=op.f("prediction_item_id_fkey"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["result_id"], ["result.id"], name=op.f("prediction_result_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("prediction_pkey")),
        sa.UniqueConstraint(
            "instance",
            "project",
            "task",
            "model_version",
            name=op.f("prediction_instance_project_task_model_version_key"),
        ),
    )
    op.create_index(op.f("prediction_item_id_idx"), "prediction", ["item_id"], unique=False)
    op.create_index(
        "prediction_pending_idx",
        "prediction",
        ["not_before", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_index(op.f("prediction_result_id_idx"), "prediction", ["result_id"], unique=False)
    # Each item is updated a few times in a short life; vacuum must keep the index of claims small.
    op.execute(
        "ALTER TABLE item SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, "
        "autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.02)"
    )
    # How common a label or a job is decides how its results are looked for; the usual hundred values are too few.
    op.execute("ALTER TABLE mask ALTER label SET STATISTICS 2000")
    op.execute("ALTER TABLE query_step ALTER label SET STATISTICS 2000")
    op.execute("ALTER TABLE item ALTER job_id SET STATISTICS 1000")


def downgrade() -> None:
    op.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
    op.drop_index(op.f("prediction_result_id_idx"), table_name="prediction")
    op.drop_index("prediction_pending_idx", table_name="prediction", postgresql_where=sa.text("state = 'pending'"))
    op.drop_index(op.f("prediction_item_id_idx"), table_name="prediction")
    op.drop_table("prediction")
    op.drop_index("query_step_dropped_idx", table_name="query_step", postgresql_where=sa.text("NOT kept"))
    op.drop_index("query_step_dropped_at_idx", table_name="query_step", postgresql_where=sa.text("NOT kept"))
    op.drop_table("query_step")
    op.drop_index("mask_label_score_idx", table_name="mask")
    op.drop_index("mask_label_idx", table_name="mask")
    op.drop_table("mask")
    op.drop_index("item_worker_idx", table_name="item", postgresql_where=sa.text("state = 'running'"))
    op.drop_index("item_running_idx", table_name="item", postgresql_where=sa.text("state = 'running'"))
    op.drop_index("item_result_idx", table_name="item", postgresql_where=sa.text("result_id IS NOT NULL"))
    op.drop_index("item_queued_idx", table_name="item", postgresql_where=sa.text("state = 'queued'"))
    op.drop_index("item_job_state_idx", table_name="item")
    op.drop_index("item_job_finished_idx", table_name="item")
    op.drop_index("item_job_done_idx", table_name="item", postgresql_where=sa.text("result_id IS NOT NULL"))
    op.drop_table("item")
    op.drop_index(op.f("vocabulary_version_vocabulary_id_idx"), table_name="vocabulary_version")
    op.drop_table("vocabulary_version")
    op.drop_index("result_vocabulary_idx", table_name="result")
    op.drop_index("result_top_score_idx", table_name="result")
    op.drop_index(op.f("result_recipe_id_idx"), table_name="result")
    op.drop_index("result_model_version_idx", table_name="result")
    op.drop_index(op.f("result_image_id_idx"), table_name="result")
    op.drop_table("result")
    op.drop_index(op.f("job_vocabulary_id_idx"), table_name="job")
    op.drop_index(
        "job_unlisted_idx", table_name="job", postgresql_where=sa.text("listed_at IS NULL AND finished_at IS NULL")
    )
    op.drop_index("job_unfinished_idx", table_name="job", postgresql_where=sa.text("finished_at IS NULL"))
    op.drop_index(op.f("job_recipe_id_idx"), table_name="job")
    op.drop_index(op.f("job_created_at_id_idx"), table_name="job")
    op.drop_table("job")
    op.drop_table("worker")
    op.drop_table("vocabulary")
    op.drop_index(op.f("reservation_worker_idx"), table_name="reservation")
    op.drop_table("reservation")
    op.drop_table("recipe")
    op.drop_table("image")
    op.drop_table("api_key")
