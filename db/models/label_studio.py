"""Label Studio: its projects and tasks, the outbox to it, and what its annotators say.

project ── job ── item ── result
   │        └─ task ─┘      │          a task's picture is an item; tasks of the same picture share it
   ├──────── prediction ────┘          what goes back, once for a task and a model version
   └──────── annotation ── feedback    what people made of it, label by label
"""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, SmallInteger, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from car.outcomes import Outcome
from db.models.base import Base, number, one_of, since_now
from db.models.work import Job


class Project(Base):
    """A project of a Label Studio that is connected here, as it was last seen."""

    __tablename__ = "project"
    __table_args__ = (
        UniqueConstraint("instance", "number"),
        Index(None, "stamp"),
        Index(None, "job_id"),
        Index("project_sync_idx", "sync_wanted_at", postgresql_where=text("sync_wanted_at IS NOT NULL")),
    )

    id: Mapped[int] = number()
    instance: Mapped[str]
    """Label Studio's address without a slash at its end: LABEL_STUDIO_URL, or the hostname it gives to /setup."""
    number: Mapped[int]
    """Label Studio's id of the project."""
    stamp: Mapped[str] = mapped_column(default="", server_default="")
    """`{id}.{created_at in unix seconds}`, as /setup and /predict name it; another one means another project."""
    title: Mapped[str | None] = mapped_column()
    label_config: Mapped[str]
    """Its labeling configuration, XML."""
    extra_params: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    """Of the ML backend in Label Studio: background, prompts and recipe settings."""
    words: Mapped[str]
    """Third digest of the model version: of the vocabulary, or of how each task gives its own."""
    regions: Mapped[str]
    """Last digest of the model version: of how masks become regions."""
    problems: Mapped[list[dict[str, str]]] = mapped_column(JSONB, default=list, server_default="[]")
    """What of the configuration cannot be mapped: [{"code", "detail"}]."""
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("job.id", ondelete="SET NULL"))
    """Of its present vocabulary and recipe; earlier ones have their own."""
    setup_at: Mapped[datetime | None] = mapped_column()
    predict_at: Mapped[datetime | None] = mapped_column()
    webhook_at: Mapped[datetime | None] = mapped_column()
    """When Label Studio last came by each way."""
    sync_wanted_at: Mapped[datetime | None] = mapped_column()
    """A look at all its tasks was asked for, and has not ended."""
    sync_until: Mapped[datetime | None] = mapped_column()
    """Lease of that look; also the time before which a failed one is not tried again."""
    sync_worker: Mapped[str | None] = mapped_column()
    sync_cursor: Mapped[int | None] = mapped_column(BigInteger)
    """The last task that was looked at."""
    sync_seen: Mapped[int] = mapped_column(default=0, server_default="0")
    sync_total: Mapped[int | None] = mapped_column()
    sync_failures: Mapped[int] = mapped_column(SmallInteger, default=0, server_default="0")
    sync_error: Mapped[str | None] = mapped_column()
    synced_at: Mapped[datetime | None] = mapped_column()
    created_at: Mapped[datetime] = since_now()

    job: Mapped[Job | None] = relationship(lazy="raise")


class Task(Base):
    """A task of Label Studio, whose picture is an item of the project's job."""

    __tablename__ = "task"
    __table_args__ = (Index(None, "item_id"),)

    job_id: Mapped[UUID] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True)
    task: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    """Label Studio's id."""
    item_id: Mapped[int] = mapped_column(ForeignKey("item.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = since_now()


class PredictionState(StrEnum):
    PENDING = "pending"
    SENT = "sent"
    """Label Studio has it: written back, or given as the answer to /predict."""
    FAILED = "failed"
    ORPHANED = "orphaned"
    """Its task was deleted in Label Studio."""


class Prediction(Base):
    """The outbox to Label Studio: at most one live prediction for a task and a model version."""

    __tablename__ = "prediction"
    __table_args__ = (
        one_of("state", PredictionState),
        UniqueConstraint("instance", "project", "task", "model_version"),
        Index("prediction_pending_idx", "instance", "not_before", "id", postgresql_where=text("state = 'pending'")),
        Index(
            "prediction_unrendered_idx",
            "not_before",
            "id",
            postgresql_where=text("state = 'pending' AND document IS NULL"),
        ),
        Index(
            "prediction_answered_idx",
            "sent_at",
            postgresql_where=text("state = 'sent' AND prediction IS NULL AND document IS NOT NULL"),
        ),
        Index(
            "prediction_look_idx",
            "instance",
            "look_at",
            postgresql_where=text("state = 'sent' AND look_at IS NOT NULL"),
        ),
        Index(None, "item_id"),
        Index(None, "result_id"),
    )

    id: Mapped[int] = number()
    instance: Mapped[str]
    project: Mapped[int]
    """Label Studio's id of the project, as in project.number."""
    task: Mapped[int] = mapped_column(BigInteger)
    model_version: Mapped[str]
    """car.model_version.label_studio_version: the string Label Studio compares."""
    item_id: Mapped[int] = mapped_column(ForeignKey("item.id", ondelete="CASCADE"))
    result_id: Mapped[UUID] = mapped_column(ForeignKey("result.id"))
    state: Mapped[str] = mapped_column(default="pending", server_default="pending")
    attempt: Mapped[int] = mapped_column(default=0, server_default="0")
    """Claims so far: from the second on, Label Studio is asked first whether it has it already."""
    failures: Mapped[int] = mapped_column(SmallInteger, default=0, server_default="0")
    worker: Mapped[str | None] = mapped_column()
    leased_until: Mapped[datetime | None] = mapped_column()
    not_before: Mapped[datetime] = since_now()
    document: Mapped[str | None] = mapped_column()
    """The prediction as JSON text, from when it is made until it is sent; an answer's for an hour more."""
    score: Mapped[float | None] = mapped_column()
    prediction: Mapped[int | None] = mapped_column(BigInteger)
    """Label Studio's id of it; none where it was the answer to /predict."""
    attempted_at: Mapped[datetime | None] = mapped_column()
    """When a publisher last took it to be sent."""
    sent_at: Mapped[datetime | None] = mapped_column()
    looks: Mapped[int] = mapped_column(SmallInteger, default=0, server_default="0")
    look_at: Mapped[datetime | None] = mapped_column()
    """When Label Studio is asked once more whether it has several: see db.second_looks."""
    error_code: Mapped[str | None] = mapped_column()
    error_detail: Mapped[str | None] = mapped_column()
    created_at: Mapped[datetime] = since_now()


class AnnotationState(StrEnum):
    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"


class Annotation(Base):
    """What a person drew, as a webhook brought it: compared with our prediction by an io worker."""

    __tablename__ = "annotation"
    __table_args__ = (
        one_of("state", AnnotationState),
        UniqueConstraint("project_id", "annotation"),
        Index("annotation_pending_idx", "not_before", "id", postgresql_where=text("state = 'pending'")),
    )

    id: Mapped[int] = number()
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"))
    task: Mapped[int] = mapped_column(BigInteger)
    annotation: Mapped[int] = mapped_column(BigInteger)
    """Label Studio's id."""
    result: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    """Its regions; emptied once they are compared."""
    state: Mapped[str] = mapped_column(default="pending", server_default="pending")
    attempt: Mapped[int] = mapped_column(default=0, server_default="0")
    worker: Mapped[str | None] = mapped_column()
    leased_until: Mapped[datetime | None] = mapped_column()
    not_before: Mapped[datetime] = since_now()
    error_code: Mapped[str | None] = mapped_column()
    error_detail: Mapped[str | None] = mapped_column()
    seen_at: Mapped[datetime] = since_now()


class Feedback(Base):
    """What an annotation says about one label of our prediction."""

    __tablename__ = "feedback"
    __table_args__ = (one_of("outcome", Outcome), Index(None, "result_id"))

    annotation_id: Mapped[int] = mapped_column(ForeignKey("annotation.id", ondelete="CASCADE"), primary_key=True)
    label: Mapped[str] = mapped_column(primary_key=True)
    prompts: Mapped[str]
    """As CLIP read the label then; the label itself where it is not of the vocabulary."""
    model_version: Mapped[str]
    result_id: Mapped[UUID | None] = mapped_column(ForeignKey("result.id"))
    outcome: Mapped[str]
    iou: Mapped[float | None]
    """With our mask; none where there was none of ours or theirs."""
    score: Mapped[float | None]
    """Of our mask."""
    seen_at: Mapped[datetime] = since_now()
