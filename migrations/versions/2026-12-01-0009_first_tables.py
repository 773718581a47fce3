"""first tables

Revision: 48409f042d3a, after
"""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "48409f042d3a"
down_revision = None
branch_labels = None
depends_on = None

# A change that has to wait longer for a lock than this would make everyone behind it wait too.
LOCK_TIMEOUT = "2s"


def _time(name: str, *, nullable: bool = True) -> sa.Column[datetime]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _now(name: str) -> sa.Column[datetime]:
    return sa.Column(name, sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False)


def _lease() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("worker", sa.Text()),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failure_count", sa.SmallInteger(), server_default="0", nullable=False),
        _now("available_at"),
        _time("lease_expires_at"),
    )


def upgrade() -> None:
    op.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
    op.create_table(
        "api_key",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        _time("expires_at"),
        _time("revoked_at"),
        _time("last_used_at"),
        _now("created_at"),
        sa.UniqueConstraint("prefix"),
    )
    op.create_table(
        "image",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), primary_key=True),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("notes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("preview_key", sa.Text()),
        _now("created_at"),
        sa.UniqueConstraint("sha256"),
    )
    op.create_table(
        "recipe",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("document", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        _now("created_at"),
        sa.UniqueConstraint("digest"),
    )
    op.create_table(
        "reservation",
        sa.Column("run_key", sa.Text(), primary_key=True),
        sa.Column("worker", sa.Text(), nullable=False),
        _time("lease_expires_at", nullable=False),
    )
    op.execute("CREATE INDEX reservation_worker_idx ON reservation (worker)")
    op.create_table(
        "vocabulary",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("document", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        _now("created_at"),
        sa.UniqueConstraint("digest"),
    )
    op.create_table(
        "worker",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("weights", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("code_version", sa.Text(), nullable=False),
        sa.Column("finished", sa.BigInteger(), server_default="0", nullable=False),
        _now("started_at"),
        _now("seen_at"),
    )
    op.create_table(
        "worker_model",
        sa.Column("proposal", sa.Text(), primary_key=True),
        sa.Column("classifier", sa.Text(), primary_key=True),
        sa.Column("sam", sa.Text(), primary_key=True, server_default=""),
        sa.Column("weights", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        _now("registered_at"),
    )
    op.create_table(
        "job",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("priority", sa.Text(), nullable=False),
        sa.Column("source", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("vocabulary_id", sa.Uuid(), sa.ForeignKey("vocabulary.id"), nullable=False),
        sa.Column("recipe_id", sa.Uuid(), sa.ForeignKey("recipe.id"), nullable=False),
        sa.Column("name", sa.Text()),
        sa.Column("api_key_id", sa.Uuid(), sa.ForeignKey("api_key.id")),
        sa.Column("idempotency_key", sa.Text()),
        sa.Column("request_digest", sa.Text()),
        sa.Column("cursor", postgresql.JSONB(astext_type=sa.Text())),
        _time("listed_at"),
        _time("cancelled_at"),
        _time("finished_at"),
        sa.Column("error_code", sa.Text()),
        sa.Column("error_detail", sa.Text()),
        sa.Column("item_counts", postgresql.JSONB(astext_type=sa.Text())),
        _now("created_at"),
        *_lease(),
        sa.CheckConstraint("kind IN ('bulk', 'label_studio', 'api')", name="kind"),
        sa.CheckConstraint("priority IN ('interactive', 'bulk')", name="priority"),
        sa.UniqueConstraint("api_key_id", "idempotency_key"),
    )
    op.execute("CREATE INDEX job_created_at_id_idx ON job (created_at, id)")
    op.execute("CREATE INDEX job_recipe_id_idx ON job (recipe_id)")
    op.execute("CREATE INDEX job_unfinished_idx ON job (id) WHERE finished_at IS NULL")
    op.execute("CREATE INDEX job_unlisted_idx ON job (id) WHERE listed_at IS NULL AND finished_at IS NULL")
    op.execute("CREATE INDEX job_vocabulary_id_idx ON job (vocabulary_id)")
    op.create_table(
        "result",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("run_key", sa.Text(), nullable=False),
        sa.Column("image_id", sa.BigInteger(), sa.ForeignKey("image.id"), nullable=False),
        sa.Column("vocabulary_id", sa.Uuid(), sa.ForeignKey("vocabulary.id"), nullable=False),
        sa.Column("recipe_id", sa.Uuid(), sa.ForeignKey("recipe.id"), nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.Column("weights", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("code_version", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("stop_reason", sa.Text(), nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("top_score", sa.Double()),
        sa.Column("timings", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("work", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("masks_key", sa.Text(), nullable=False),
        sa.Column("labelmap_key", sa.Text(), nullable=False),
        _now("created_at"),
        sa.UniqueConstraint("run_key"),
    )
    op.execute("CREATE INDEX result_image_id_idx ON result (image_id)")
    op.execute("CREATE INDEX result_model_version_idx ON result (model_version, id DESC)")
    op.execute("CREATE INDEX result_recipe_id_idx ON result (recipe_id)")
    op.execute("CREATE INDEX result_top_score_idx ON result (top_score, id)")
    op.execute("CREATE INDEX result_vocabulary_idx ON result (vocabulary_id, id DESC)")
    op.create_table(
        "vocabulary_version",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("vocabulary_id", sa.Uuid(), sa.ForeignKey("vocabulary.id"), nullable=False),
        _now("created_at"),
        sa.UniqueConstraint("name", "version"),
    )
    op.execute("CREATE INDEX vocabulary_version_vocabulary_id_idx ON vocabulary_version (vocabulary_id)")
    op.create_table(
        "item",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), primary_key=True),
        sa.Column("job_id", sa.Uuid(), sa.ForeignKey("job.id", ondelete="CASCADE"), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("etag", sa.Text(), server_default="", nullable=False),
        sa.Column("vocabulary_id", sa.Uuid(), sa.ForeignKey("vocabulary.id")),
        sa.Column("ls_task_id", sa.BigInteger()),
        sa.Column("state", sa.Text(), server_default="queued", nullable=False),
        sa.Column("lost_lease_count", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("isolated", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("result_id", sa.Uuid(), sa.ForeignKey("result.id")),
        sa.Column("reused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("error_code", sa.Text()),
        sa.Column("error_detail", sa.Text()),
        _time("finished_at"),
        _now("created_at"),
        *_lease(),
        sa.CheckConstraint("state IN ('queued', 'running', 'done', 'failed', 'dead', 'cancelled')", name="state"),
        sa.UniqueConstraint("job_id", "uri", "etag", "vocabulary_id", postgresql_nulls_not_distinct=True),
    )
    op.execute("CREATE INDEX item_job_done_idx ON item (job_id, id DESC, result_id) WHERE result_id IS NOT NULL")
    op.execute("CREATE INDEX item_job_finished_idx ON item (job_id, finished_at)")
    op.execute("CREATE INDEX item_job_state_idx ON item (job_id, state, id) INCLUDE (reused)")
    op.execute("CREATE INDEX item_queued_idx ON item (priority, available_at, id) WHERE state = 'queued'")
    op.execute("CREATE INDEX item_result_idx ON item (result_id, job_id, id) WHERE result_id IS NOT NULL")
    op.execute("CREATE INDEX item_running_idx ON item (lease_expires_at) WHERE state = 'running'")
    op.execute("CREATE INDEX item_worker_idx ON item (worker) WHERE state = 'running'")
    op.create_table(
        "mask",
        sa.Column("result_id", sa.Uuid(), sa.ForeignKey("result.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("position", sa.SmallInteger(), primary_key=True),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("x", sa.Integer(), nullable=False),
        sa.Column("y", sa.Integer(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("area", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
    )
    op.execute("CREATE UNIQUE INDEX mask_label_idx ON mask (label, result_id DESC) INCLUDE (score)")
    op.execute("CREATE INDEX mask_label_score_idx ON mask (label, score, result_id)")
    op.create_table(
        "project",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), primary_key=True),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("ls_project_id", sa.Integer(), nullable=False),
        sa.Column("ls_project_key", sa.Text(), server_default="", nullable=False),
        sa.Column("title", sa.Text()),
        sa.Column("label_config", sa.Text(), nullable=False),
        sa.Column("extra_params", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.Column("vocabulary_digest", sa.Text(), nullable=False),
        sa.Column("region_digest", sa.Text(), nullable=False),
        sa.Column("problems", postgresql.JSONB(astext_type=sa.Text()), server_default="[]", nullable=False),
        sa.Column("job_id", sa.Uuid(), sa.ForeignKey("job.id", ondelete="SET NULL")),
        _time("setup_at"),
        _time("predict_at"),
        _time("webhook_at"),
        _time("sync_wanted_at"),
        sa.Column("sync_cursor", sa.BigInteger()),
        sa.Column("sync_seen", sa.Integer(), server_default="0", nullable=False),
        sa.Column("sync_total", sa.Integer()),
        sa.Column("sync_error", sa.Text()),
        _time("synced_at"),
        _now("created_at"),
        *_lease(),
        sa.UniqueConstraint("instance", "ls_project_id"),
    )
    op.execute("CREATE INDEX project_job_id_idx ON project (job_id)")
    op.execute("CREATE INDEX project_ls_project_key_idx ON project (ls_project_key)")
    op.execute("CREATE INDEX project_sync_idx ON project (sync_wanted_at) WHERE sync_wanted_at IS NOT NULL")
    op.create_table(
        "query_step",
        sa.Column("result_id", sa.Uuid(), sa.ForeignKey("result.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("pass_kind", sa.Text(), primary_key=True),
        sa.Column("step", sa.SmallInteger(), primary_key=True),
        sa.Column("position", sa.SmallInteger(), primary_key=True),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("query", sa.Text(), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("kept", sa.Boolean(), nullable=False),
        sa.Column("area", sa.BigInteger(), nullable=False),
        sa.Column("iou_previous", sa.Double()),
        sa.Column("rival", sa.Text()),
        sa.Column("rival_score", sa.Double()),
    )
    op.execute("CREATE INDEX query_step_dropped_at_idx ON query_step (step, result_id DESC, label) WHERE NOT kept")
    op.execute("CREATE INDEX query_step_dropped_idx ON query_step (label, result_id DESC, step) WHERE NOT kept")
    op.create_table(
        "annotation",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), primary_key=True),
        sa.Column("project_id", sa.BigInteger(), sa.ForeignKey("project.id", ondelete="CASCADE"), nullable=False),
        sa.Column("ls_task_id", sa.BigInteger(), nullable=False),
        sa.Column("ls_annotation_id", sa.BigInteger(), nullable=False),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("error_code", sa.Text()),
        sa.Column("error_detail", sa.Text()),
        _now("seen_at"),
        *_lease(),
        sa.CheckConstraint("state IN ('pending', 'done', 'failed')", name="state"),
        sa.UniqueConstraint("project_id", "ls_annotation_id"),
    )
    op.execute("CREATE INDEX annotation_pending_idx ON annotation (available_at, id) WHERE state = 'pending'")
    op.create_table(
        "prediction",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), primary_key=True),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("ls_project_id", sa.Integer(), nullable=False),
        sa.Column("ls_task_id", sa.BigInteger(), nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.Column("item_id", sa.BigInteger(), sa.ForeignKey("item.id", ondelete="CASCADE"), nullable=False),
        sa.Column("result_id", sa.Uuid(), sa.ForeignKey("result.id"), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("document", sa.Text()),
        sa.Column("score", sa.Double()),
        sa.Column("ls_prediction_id", sa.BigInteger()),
        _time("attempted_at"),
        _time("sent_at"),
        sa.Column("duplicate_checks", sa.SmallInteger(), server_default="0", nullable=False),
        _time("next_duplicate_check_at"),
        sa.Column("error_code", sa.Text()),
        sa.Column("error_detail", sa.Text()),
        _now("created_at"),
        *_lease(),
        sa.CheckConstraint("state IN ('pending', 'sent', 'failed', 'orphaned')", name="state"),
        sa.UniqueConstraint("instance", "ls_project_id", "ls_task_id", "model_version"),
    )
    op.execute(
        "CREATE INDEX prediction_answered_idx ON prediction (sent_at)"
        " WHERE state = 'sent' AND ls_prediction_id IS NULL AND document IS NOT NULL"
    )
    op.execute(
        "CREATE INDEX prediction_duplicate_check_idx ON prediction (instance, next_duplicate_check_at)"
        " WHERE state = 'sent' AND next_duplicate_check_at IS NOT NULL"
    )
    op.execute("CREATE INDEX prediction_item_id_idx ON prediction (item_id)")
    op.execute("CREATE INDEX prediction_pending_idx ON prediction (instance, available_at, id) WHERE state = 'pending'")
    op.execute("CREATE INDEX prediction_result_id_idx ON prediction (result_id)")
    op.execute(
        "CREATE INDEX prediction_unrendered_idx ON prediction (available_at, id)"
        " WHERE state = 'pending' AND document IS NULL"
    )
    op.create_table(
        "task",
        sa.Column("job_id", sa.Uuid(), sa.ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("ls_task_id", sa.BigInteger(), primary_key=True),
        sa.Column("item_id", sa.BigInteger(), sa.ForeignKey("item.id", ondelete="CASCADE"), nullable=False),
        _now("created_at"),
    )
    op.execute("CREATE INDEX task_item_id_idx ON task (item_id)")
    op.create_table(
        "feedback",
        sa.Column(
            "annotation_id", sa.BigInteger(), sa.ForeignKey("annotation.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("label", sa.Text(), primary_key=True),
        sa.Column("prompts", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.Column("result_id", sa.Uuid(), sa.ForeignKey("result.id")),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("iou", sa.Double()),
        sa.Column("score", sa.Double()),
        _now("seen_at"),
        sa.CheckConstraint("outcome IN ('accepted', 'changed', 'rejected', 'missed')", name="outcome"),
    )
    op.execute("CREATE INDEX feedback_result_id_idx ON feedback (result_id)")
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
    op.drop_table("feedback")
    op.drop_table("task")
    op.drop_table("prediction")
    op.drop_table("annotation")
    op.drop_table("query_step")
    op.drop_table("project")
    op.drop_table("mask")
    op.drop_table("item")
    op.drop_table("vocabulary_version")
    op.drop_table("result")
    op.drop_table("job")
    op.drop_table("worker_model")
    op.drop_table("worker")
    op.drop_table("vocabulary")
    op.drop_table("reservation")
    op.drop_table("recipe")
    op.drop_table("image")
    op.drop_table("api_key")
