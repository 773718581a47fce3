"""Vocabularies, recipes, jobs and their items."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, SmallInteger, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from db.models.base import Base, LeaseColumns, number, one_of, own_id, since_now


class ItemState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    """A permanent error, or a retryable one too often; `error_code` names it."""
    DEAD = "dead"
    """Its workers died in every attempt."""
    CANCELLED = "cancelled"


class JobKind(StrEnum):
    BULK = "bulk"
    LABEL_STUDIO = "label_studio"
    API = "api"


class Priority(StrEnum):
    INTERACTIVE = "interactive"
    """A user waits: claimed before everything else."""
    BULK = "bulk"


PRIORITY_ORDER = {Priority.INTERACTIVE: 0, Priority.BULK: 1}
"""The column `item.priority`: lower numbers are claimed first."""


class Vocabulary(Base):
    __tablename__ = "vocabulary"

    id: Mapped[UUID] = own_id()
    digest: Mapped[str] = mapped_column(unique=True)
    document: Mapped[dict[str, Any]]
    """car.vocabulary.Vocabulary.to_json()."""
    created_at: Mapped[datetime] = since_now()


class VocabularyVersion(Base):
    """A vocabulary's name and version: `defects` 3. Versions never change."""

    __tablename__ = "vocabulary_version"
    __table_args__ = (UniqueConstraint("name", "version"),)

    id: Mapped[UUID] = own_id()
    name: Mapped[str]
    version: Mapped[int]
    vocabulary_id: Mapped[UUID] = mapped_column(ForeignKey("vocabulary.id"), index=True)
    created_at: Mapped[datetime] = since_now()


class Recipe(Base):
    __tablename__ = "recipe"

    id: Mapped[UUID] = own_id()
    digest: Mapped[str] = mapped_column(unique=True)
    document: Mapped[dict[str, Any]]
    """car.recipe.Recipe.to_json()."""
    created_at: Mapped[datetime] = since_now()


class Job(LeaseColumns, Base):
    """A request to label images with one vocabulary and recipe. The lease belongs to the listing of its source; its
    progress is counted from its items.
    """

    __tablename__ = "job"
    __table_args__ = (
        one_of("kind", JobKind),
        one_of("priority", Priority),
        UniqueConstraint("api_key_id", "idempotency_key"),
        Index(None, "created_at", "id"),
        Index("job_unlisted_idx", "id", postgresql_where=text("listed_at IS NULL AND finished_at IS NULL")),
        Index("job_unfinished_idx", "id", postgresql_where=text("finished_at IS NULL")),
    )

    id: Mapped[UUID] = own_id()
    kind: Mapped[str]
    priority: Mapped[str]
    source: Mapped[dict[str, Any]]
    """car.bulk_source.BulkSource.to_json(); for Label Studio see db.label_studio.project_jobs."""
    vocabulary_id: Mapped[UUID] = mapped_column(ForeignKey("vocabulary.id"), index=True)
    recipe_id: Mapped[UUID] = mapped_column(ForeignKey("recipe.id"), index=True)
    name: Mapped[str | None] = mapped_column()
    api_key_id: Mapped[UUID | None] = mapped_column(ForeignKey("api_key.id"))
    idempotency_key: Mapped[str | None] = mapped_column()
    request_digest: Mapped[str | None] = mapped_column()
    """Digest of the request that created it: one Idempotency-Key belongs to one request."""
    cursor: Mapped[dict[str, Any] | None] = mapped_column()
    listed_at: Mapped[datetime | None] = mapped_column()
    cancelled_at: Mapped[datetime | None] = mapped_column()
    finished_at: Mapped[datetime | None] = mapped_column()
    """Set when no item is open; a retry or a rescan unsets it."""
    error_code: Mapped[str | None] = mapped_column()
    error_detail: Mapped[str | None] = mapped_column()
    item_counts: Mapped[dict[str, Any] | None] = mapped_column()
    """Items by state and `reused`, counted when the job ended; NULL before."""
    created_at: Mapped[datetime] = since_now()

    vocabulary: Mapped[Vocabulary] = relationship(lazy="raise")
    recipe: Mapped[Recipe] = relationship(lazy="raise")


class Item(LeaseColumns, Base):
    """One image of one job. Items of one priority are claimed in the order of `available_at`, so that none starves."""

    __tablename__ = "item"
    __table_args__ = (
        one_of("state", ItemState),
        # A rescan adds only new images: another key, or other content under a known key.
        UniqueConstraint("job_id", "uri", "etag", "vocabulary_id", postgresql_nulls_not_distinct=True),
        Index("item_queued_idx", "priority", "available_at", "id", postgresql_where=text("state = 'queued'")),
        Index("item_running_idx", "lease_expires_at", postgresql_where=text("state = 'running'")),
        Index("item_worker_idx", "worker", postgresql_where=text("state = 'running'")),
        Index("item_job_state_idx", "job_id", "state", "id", postgresql_include=["reused"]),
        Index(
            "item_job_done_idx", "job_id", text("id DESC"), "result_id", postgresql_where=text("result_id IS NOT NULL")
        ),
        Index("item_job_finished_idx", "job_id", "finished_at"),
        Index("item_result_idx", "result_id", "job_id", "id", postgresql_where=text("result_id IS NOT NULL")),
    )

    id: Mapped[int] = number()
    job_id: Mapped[UUID] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"))
    priority: Mapped[int] = mapped_column(SmallInteger)
    uri: Mapped[str]
    etag: Mapped[str] = mapped_column(default="", server_default="")
    vocabulary_id: Mapped[UUID | None] = mapped_column(ForeignKey("vocabulary.id"))
    """The item's own vocabulary, such as a referring expression or a prompt. NULL: the job's."""
    ls_task_id: Mapped[int | None] = mapped_column(BigInteger)
    """The Label Studio task through which the image is fetched; the job's source has its instance."""
    state: Mapped[str] = mapped_column(default="queued", server_default="queued")
    lost_lease_count: Mapped[int] = mapped_column(SmallInteger, default=0, server_default="0")
    isolated: Mapped[bool] = mapped_column(default=False, server_default=text("false"))
    """It may have killed a worker: it is claimed alone."""
    result_id: Mapped[UUID | None] = mapped_column(ForeignKey("result.id"))
    reused: Mapped[bool] = mapped_column(default=False, server_default=text("false"))
    """The result existed before this item."""
    error_code: Mapped[str | None] = mapped_column()
    error_detail: Mapped[str | None] = mapped_column()
    finished_at: Mapped[datetime | None] = mapped_column()
    created_at: Mapped[datetime] = since_now()
