"""Label Studio: its projects and tasks, the outbox to it, and feedback of its annotators.

project ── job ── item ── result
   │        └─ task ─┘      │          a task's image is an item, which tasks with the same image share
   ├──────── prediction ────┘          one for each task and model version
   └──────── annotation ── feedback    how annotators corrected each label
"""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, SmallInteger, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from car.label_studio.agreement import Outcome
from db.models.base import Base, LeaseColumns, number, one_of, since_now
from db.models.work import Job


class Project(LeaseColumns, Base):
    """The newest known state of a connected Label Studio project. The lease belongs to its sync."""

    __tablename__ = "project"
    __table_args__ = (
        UniqueConstraint("instance", "ls_project_id"),
        Index(None, "ls_project_key"),
        Index(None, "job_id"),
        Index("project_sync_idx", "sync_wanted_at", postgresql_where=text("sync_wanted_at IS NOT NULL")),
    )

    id: Mapped[int] = number()
    instance: Mapped[str]
    """Label Studio's URL without a trailing slash: LABEL_STUDIO_URL, or the hostname that it sends to /setup."""
    ls_project_id: Mapped[int]
    ls_project_key: Mapped[str] = mapped_column(default="", server_default="")
    """`{id}.{created_at in unix seconds}` from /setup and /predict; another key means another project."""
    title: Mapped[str | None] = mapped_column()
    label_config: Mapped[str]
    """The labeling configuration, XML."""
    extra_params: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    """Parameters of the ML backend in Label Studio: background, prompts and recipe settings."""
    vocabulary_digest: Mapped[str]
    """Third digest of the model version: the vocabulary, or how each task gives its own."""
    region_digest: Mapped[str]
    """Last digest of the model version: how masks become regions."""
    problems: Mapped[list[dict[str, str]]] = mapped_column(JSONB, default=list, server_default="[]")
    """Parts of the configuration that cannot be mapped: [{"code", "detail"}]."""
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("job.id", ondelete="SET NULL"))
    """The job of the present vocabulary and recipe."""
    setup_at: Mapped[datetime | None] = mapped_column()
    predict_at: Mapped[datetime | None] = mapped_column()
    webhook_at: Mapped[datetime | None] = mapped_column()
    """Times of the last request of each kind."""
    sync_wanted_at: Mapped[datetime | None] = mapped_column()
    """When a sync of all tasks was requested; NULL after it has ended."""
    sync_cursor: Mapped[int | None] = mapped_column(BigInteger)
    """The last task that the sync has handled."""
    sync_seen: Mapped[int] = mapped_column(default=0, server_default="0")
    sync_total: Mapped[int | None] = mapped_column()
    sync_error: Mapped[str | None] = mapped_column()
    synced_at: Mapped[datetime | None] = mapped_column()
    created_at: Mapped[datetime] = since_now()

    job: Mapped[Job | None] = relationship(lazy="raise")


class Task(Base):
    """A task of Label Studio, whose image is an item of the project's job."""

    __tablename__ = "task"
    __table_args__ = (Index(None, "item_id"),)

    job_id: Mapped[UUID] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True)
    ls_task_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    item_id: Mapped[int] = mapped_column(ForeignKey("item.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = since_now()


class PredictionState(StrEnum):
    PENDING = "pending"
    SENT = "sent"
    """Label Studio has it: written back, or returned by /predict."""
    FAILED = "failed"
    ORPHANED = "orphaned"


class Prediction(LeaseColumns, Base):
    """The outbox to Label Studio: at most one live prediction for each task and model version. From the second attempt
    on, publishers ask Label Studio first whether it already has the prediction.
    """

    __tablename__ = "prediction"
    __table_args__ = (
        one_of("state", PredictionState),
        UniqueConstraint("instance", "ls_project_id", "ls_task_id", "model_version"),
        Index("prediction_pending_idx", "instance", "available_at", "id", postgresql_where=text("state = 'pending'")),
        Index(
            "prediction_unrendered_idx",
            "available_at",
            "id",
            postgresql_where=text("state = 'pending' AND document IS NULL"),
        ),
        Index(
            "prediction_answered_idx",
            "sent_at",
            postgresql_where=text("state = 'sent' AND ls_prediction_id IS NULL AND document IS NOT NULL"),
        ),
        Index(
            "prediction_duplicate_check_idx",
            "instance",
            "next_duplicate_check_at",
            postgresql_where=text("state = 'sent' AND next_duplicate_check_at IS NOT NULL"),
        ),
        Index(None, "item_id"),
        Index(None, "result_id"),
    )

    id: Mapped[int] = number()
    instance: Mapped[str]
    ls_project_id: Mapped[int]
    ls_task_id: Mapped[int] = mapped_column(BigInteger)
    model_version: Mapped[str]
    """car.model_version.label_studio_version, which Label Studio compares."""
    item_id: Mapped[int] = mapped_column(ForeignKey("item.id", ondelete="CASCADE"))
    result_id: Mapped[UUID] = mapped_column(ForeignKey("result.id"))
    state: Mapped[str] = mapped_column(default="pending", server_default="pending")
    document: Mapped[str | None] = mapped_column()
    """The prediction as JSON text, from rendering until it is sent; a response's for an hour more."""
    score: Mapped[float | None] = mapped_column()
    ls_prediction_id: Mapped[int | None] = mapped_column(BigInteger)
    """NULL if /predict returned the prediction."""
    attempted_at: Mapped[datetime | None] = mapped_column()
    """When a publisher last claimed it for sending."""
    sent_at: Mapped[datetime | None] = mapped_column()
    duplicate_checks: Mapped[int] = mapped_column(SmallInteger, default=0, server_default="0")
    next_duplicate_check_at: Mapped[datetime | None] = mapped_column()
    """When Label Studio is next asked whether it has duplicates."""
    error_code: Mapped[str | None] = mapped_column()
    error_detail: Mapped[str | None] = mapped_column()
    created_at: Mapped[datetime] = since_now()


class AnnotationState(StrEnum):
    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"


class Annotation(LeaseColumns, Base):
    """An annotation that a webhook reported; an io worker compares it with our prediction."""

    __tablename__ = "annotation"
    __table_args__ = (
        one_of("state", AnnotationState),
        UniqueConstraint("project_id", "ls_annotation_id"),
        Index("annotation_pending_idx", "available_at", "id", postgresql_where=text("state = 'pending'")),
    )

    id: Mapped[int] = number()
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"))
    ls_task_id: Mapped[int] = mapped_column(BigInteger)
    ls_annotation_id: Mapped[int] = mapped_column(BigInteger)
    result: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    """The regions; empty after the comparison."""
    state: Mapped[str] = mapped_column(default="pending", server_default="pending")
    error_code: Mapped[str | None] = mapped_column()
    error_detail: Mapped[str | None] = mapped_column()
    seen_at: Mapped[datetime] = since_now()


class Feedback(Base):
    """How an annotation agrees with our prediction of one label."""

    __tablename__ = "feedback"
    __table_args__ = (one_of("outcome", Outcome), Index(None, "result_id"))

    annotation_id: Mapped[int] = mapped_column(ForeignKey("annotation.id", ondelete="CASCADE"), primary_key=True)
    label: Mapped[str] = mapped_column(primary_key=True)
    prompts: Mapped[str]
    """The label's prompts at that time; the label itself if the vocabulary lacks it."""
    model_version: Mapped[str]
    result_id: Mapped[UUID | None] = mapped_column(ForeignKey("result.id"))
    outcome: Mapped[str]
    iou: Mapped[float | None]
    """Overlap of the two masks, 0..1; NULL if one is missing."""
    score: Mapped[float | None]
    seen_at: Mapped[datetime] = since_now()
