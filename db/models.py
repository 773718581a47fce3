"""The rows, and what they mean. States move in the other files of db/ alone.

    vocabulary ─┐                     ┌─ query_step  one row per label and step: the query history
    recipe ─────┼─ job ── item ── result ── mask
    image ──────┘           └──────────┴─ prediction  the outbox to Label Studio

A result belongs to (image content, vocabulary, recipe, weights, code); any number of items point to it. Masks are
objects in S3; the rows hold what questions are asked about.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    MetaData,
    SmallInteger,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from uuid_utils.compat import uuid7


class ItemState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    """Its own fault, or a retryable one too often: `error_code` says which."""
    DEAD = "dead"
    """Its workers died, each time it was tried."""
    CANCELLED = "cancelled"


class JobKind(StrEnum):
    BULK = "bulk"
    LABEL_STUDIO = "label_studio"
    API = "api"


class Lane(StrEnum):
    INTERACTIVE = "interactive"
    """Somebody waits: claimed before anything else."""
    BULK = "bulk"


class PredictionState(StrEnum):
    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"
    ORPHANED = "orphaned"
    """Its task was deleted in Label Studio."""


def _one_of(column: str, kind: type[StrEnum]) -> CheckConstraint:
    values = ", ".join(f"'{value}'" for value in kind)
    return CheckConstraint(f"{column} IN ({values})", name=column)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ck": "%(table_name)s_%(constraint_name)s_check",
            "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
            "pk": "%(table_name)s_pkey",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own class attribute
        str: Text,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[str]: ARRAY(Text),
        float: Double,
    }


def _id() -> Mapped[UUID]:
    """A UUIDv7, made here: known before the insert, and in the order of creation."""
    return mapped_column(primary_key=True, default=uuid7)


def _number() -> Mapped[int]:
    return mapped_column(BigInteger, Identity(), primary_key=True)


def _now() -> Mapped[datetime]:
    return mapped_column(server_default=func.now())


class Vocabulary(Base):
    __tablename__ = "vocabulary"

    id: Mapped[UUID] = _id()
    digest: Mapped[str] = mapped_column(unique=True)
    document: Mapped[dict[str, Any]]
    """car.vocabulary.Vocabulary, field by field."""
    created_at: Mapped[datetime] = _now()


class VocabularyVersion(Base):
    """A name and a number for a vocabulary: `defects` 3. Versions are never changed."""

    __tablename__ = "vocabulary_version"
    __table_args__ = (UniqueConstraint("name", "version"),)

    id: Mapped[UUID] = _id()
    name: Mapped[str]
    version: Mapped[int]
    vocabulary_id: Mapped[UUID] = mapped_column(ForeignKey("vocabulary.id"), index=True)
    created_at: Mapped[datetime] = _now()


class Recipe(Base):
    __tablename__ = "recipe"

    id: Mapped[UUID] = _id()
    digest: Mapped[str] = mapped_column(unique=True)
    document: Mapped[dict[str, Any]]
    """car.recipe.Recipe.to_json()."""
    created_at: Mapped[datetime] = _now()


class Image(Base):
    """Content: equal bytes are one image, wherever they lie."""

    __tablename__ = "image"

    id: Mapped[int] = _number()
    sha256: Mapped[str] = mapped_column(unique=True)
    width: Mapped[int]
    """After EXIF orientation, as masks are."""
    height: Mapped[int]
    format: Mapped[str]
    notes: Mapped[list[str]] = mapped_column(default=list)
    preview_key: Mapped[str | None] = mapped_column()
    """Object of a small upright JPEG, on which overlays are drawn."""
    created_at: Mapped[datetime] = _now()


class Job(Base):
    """A wish: these pictures, this vocabulary, this recipe. What became of it is counted from its items."""

    __tablename__ = "job"
    __table_args__ = (
        _one_of("kind", JobKind),
        _one_of("lane", Lane),
        UniqueConstraint("api_key_id", "idempotency_key"),
        Index(None, "created_at", "id"),
        Index("job_unlisted_idx", "id", postgresql_where=text("listed_at IS NULL AND finished_at IS NULL")),
        Index("job_unfinished_idx", "id", postgresql_where=text("finished_at IS NULL")),
    )

    id: Mapped[UUID] = _id()
    kind: Mapped[str]
    lane: Mapped[str]
    source: Mapped[dict[str, Any]]
    """car.bulk_source.BulkSource.to_json(); for Label Studio its instance and project."""
    vocabulary_id: Mapped[UUID] = mapped_column(ForeignKey("vocabulary.id"), index=True)
    recipe_id: Mapped[UUID] = mapped_column(ForeignKey("recipe.id"), index=True)
    name: Mapped[str | None] = mapped_column()
    api_key_id: Mapped[UUID | None] = mapped_column(ForeignKey("api_key.id"))
    idempotency_key: Mapped[str | None] = mapped_column()
    request_digest: Mapped[str | None] = mapped_column()
    """Of the request that made it: one Idempotency-Key belongs to one request."""
    cursor: Mapped[dict[str, Any] | None] = mapped_column()
    """Up to where the source has been listed."""
    lister: Mapped[str | None] = mapped_column()
    """The worker that lists it now; fences its writes together with listing_attempt."""
    listing_attempt: Mapped[int] = mapped_column(default=0)
    listing_failures: Mapped[int] = mapped_column(SmallInteger, default=0, server_default="0")
    """Errors that may pass by themselves since the last page."""
    listing_until: Mapped[datetime | None] = mapped_column()
    """Lease of the listing; also the time before which a failed listing is not tried again."""
    listed_at: Mapped[datetime | None] = mapped_column()
    cancelled_at: Mapped[datetime | None] = mapped_column()
    finished_at: Mapped[datetime | None] = mapped_column()
    """Set when nothing is left to be done; unset by a retry or a new listing."""
    error_code: Mapped[str | None] = mapped_column()
    error_detail: Mapped[str | None] = mapped_column()
    tally: Mapped[dict[str, Any] | None] = mapped_column()
    """Items by state, and `reused`, as they were counted when the job ended; none while it goes on."""
    created_at: Mapped[datetime] = _now()

    vocabulary: Mapped[Vocabulary] = relationship(lazy="raise")
    recipe: Mapped[Recipe] = relationship(lazy="raise")


class Item(Base):
    """One picture of one job."""

    __tablename__ = "item"
    __table_args__ = (
        _one_of("state", ItemState),
        # Re-listing a source adds only what is new: another key, or other content under a known key.
        UniqueConstraint("job_id", "uri", "etag"),
        Index("item_queued_idx", "lane", "not_before", "id", postgresql_where=text("state = 'queued'")),
        Index("item_running_idx", "leased_until", postgresql_where=text("state = 'running'")),
        Index("item_worker_idx", "worker", postgresql_where=text("state = 'running'")),
        Index("item_job_state_idx", "job_id", "state", "id", postgresql_include=["reused"]),
        Index(
            "item_job_done_idx", "job_id", text("id DESC"), "result_id", postgresql_where=text("result_id IS NOT NULL")
        ),
        Index("item_job_finished_idx", "job_id", "finished_at"),
        Index("item_result_idx", "result_id", "job_id", "id", postgresql_where=text("result_id IS NOT NULL")),
    )

    id: Mapped[int] = _number()
    job_id: Mapped[UUID] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"))
    lane: Mapped[int] = mapped_column(SmallInteger)
    """0 interactive, 1 bulk: the order of claims."""
    uri: Mapped[str]
    etag: Mapped[str] = mapped_column(default="", server_default="")
    state: Mapped[str] = mapped_column(default="queued", server_default="queued")
    attempt: Mapped[int] = mapped_column(default=0, server_default="0")
    """Claims so far, handed-back ones not counted. Together with `worker` it fences every write."""
    lost: Mapped[int] = mapped_column(SmallInteger, default=0, server_default="0")
    """Attempts whose worker fell silent."""
    failures: Mapped[int] = mapped_column(SmallInteger, default=0, server_default="0")
    """Attempts that met an error which may pass by itself."""
    alone: Mapped[bool] = mapped_column(default=False, server_default=text("false"))
    """Suspected of killing workers: claimed without company."""
    not_before: Mapped[datetime] = mapped_column(server_default=func.now())
    """Since when it can be claimed: items come in this order, so that none waits for ever behind newer ones. A failure
    that may pass by itself moves it into the future.
    """
    leased_until: Mapped[datetime | None] = mapped_column()
    worker: Mapped[str | None] = mapped_column()
    result_id: Mapped[UUID | None] = mapped_column(ForeignKey("result.id"))
    reused: Mapped[bool] = mapped_column(default=False, server_default=text("false"))
    """The result was there already."""
    error_code: Mapped[str | None] = mapped_column()
    error_detail: Mapped[str | None] = mapped_column()
    finished_at: Mapped[datetime | None] = mapped_column()
    created_at: Mapped[datetime] = _now()


class Result(Base):
    """What came out for one picture, one vocabulary and one recipe."""

    __tablename__ = "result"
    __table_args__ = (
        Index(None, "image_id"),
        Index("result_model_version_idx", "model_version", text("id DESC")),
        Index("result_vocabulary_idx", "vocabulary_id", text("id DESC")),
        Index("result_top_score_idx", "top_score", "id"),
    )

    id: Mapped[UUID] = _id()
    run_key: Mapped[str] = mapped_column(unique=True)
    """car.model_version.run_key: sha256 over all that decides the masks."""
    image_id: Mapped[int] = mapped_column(ForeignKey("image.id"))
    vocabulary_id: Mapped[UUID] = mapped_column(ForeignKey("vocabulary.id"))
    recipe_id: Mapped[UUID] = mapped_column(ForeignKey("recipe.id"), index=True)
    model_version: Mapped[str]
    weights: Mapped[dict[str, Any]]
    code_version: Mapped[str]
    device: Mapped[str]
    worker: Mapped[str]
    stop_reason: Mapped[str]
    steps: Mapped[int]
    top_score: Mapped[float | None]
    """The best mask's; none where there is no mask."""
    timings: Mapped[dict[str, Any]]
    work: Mapped[dict[str, Any]]
    masks_key: Mapped[str]
    """Object of all masks as COCO RLE, one JSON document."""
    labelmap_key: Mapped[str]
    """Object of one indexed PNG: 0 is no label, k the k-th mask."""
    created_at: Mapped[datetime] = _now()

    image: Mapped[Image] = relationship(lazy="raise")
    masks: Mapped[list["Mask"]] = relationship(lazy="raise", order_by="Mask.position")


class Reservation(Base):
    """A worker is computing this result now; another one with the same picture waits for it instead of doing it too."""

    __tablename__ = "reservation"
    __table_args__ = (Index(None, "worker"),)

    run_key: Mapped[str] = mapped_column(primary_key=True)
    worker: Mapped[str]
    until: Mapped[datetime]


class Mask(Base):
    """What is asked about a mask; its pixels are in the result's objects."""

    __tablename__ = "mask"
    __table_args__ = (
        # A result has one mask of a label at most, so that a join by label doubles no row.
        Index("mask_label_idx", "label", text("result_id DESC"), unique=True, postgresql_include=["score"]),
        Index("mask_label_score_idx", "label", "score", "result_id"),
    )

    result_id: Mapped[UUID] = mapped_column(ForeignKey("result.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    """1, 2, …: also its value in the label map."""
    label: Mapped[str]
    score: Mapped[float]
    x: Mapped[int]
    y: Mapped[int]
    width: Mapped[int]
    height: Mapped[int]
    area: Mapped[int] = mapped_column(BigInteger)
    source: Mapped[str]


class QueryStep(Base):
    """The query history: what one step made of one label."""

    __tablename__ = "query_step"
    __table_args__ = (
        Index("query_step_dropped_idx", "label", text("result_id DESC"), "step", postgresql_where=text("NOT kept")),
        Index("query_step_dropped_at_idx", "step", text("result_id DESC"), "label", postgresql_where=text("NOT kept")),
    )

    result_id: Mapped[UUID] = mapped_column(ForeignKey("result.id", ondelete="CASCADE"), primary_key=True)
    within: Mapped[str] = mapped_column(primary_key=True)
    """things or stuff: the pass."""
    step: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    position: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    label: Mapped[str]
    query: Mapped[str]
    """The text as CLIP read it."""
    score: Mapped[float]
    kept: Mapped[bool]
    area: Mapped[int] = mapped_column(BigInteger)
    iou_previous: Mapped[float | None]
    rival: Mapped[str | None]
    rival_score: Mapped[float | None]


class Prediction(Base):
    """The outbox to Label Studio: at most one live prediction for a task and a model version."""

    __tablename__ = "prediction"
    __table_args__ = (
        _one_of("state", PredictionState),
        UniqueConstraint("instance", "project", "task", "model_version"),
        Index("prediction_pending_idx", "not_before", "id", postgresql_where=text("state = 'pending'")),
        Index(None, "item_id"),
        Index(None, "result_id"),
    )

    id: Mapped[int] = _number()
    instance: Mapped[str]
    project: Mapped[int]
    task: Mapped[int] = mapped_column(BigInteger)
    model_version: Mapped[str]
    item_id: Mapped[int] = mapped_column(ForeignKey("item.id", ondelete="CASCADE"))
    result_id: Mapped[UUID] = mapped_column(ForeignKey("result.id"))
    state: Mapped[str] = mapped_column(default="pending", server_default="pending")
    attempt: Mapped[int] = mapped_column(default=0, server_default="0")
    leased_until: Mapped[datetime | None] = mapped_column()
    not_before: Mapped[datetime | None] = mapped_column()
    prediction: Mapped[int | None] = mapped_column(BigInteger)
    """Label Studio's id of it."""
    error_code: Mapped[str | None] = mapped_column()
    error_detail: Mapped[str | None] = mapped_column()
    created_at: Mapped[datetime] = _now()


class ApiKey(Base):
    """A bearer key; only its sha256 is kept."""

    __tablename__ = "api_key"

    id: Mapped[UUID] = _id()
    name: Mapped[str]
    prefix: Mapped[str] = mapped_column(unique=True)
    """The first characters of the key, by which it is found and shown."""
    sha256: Mapped[str]
    scopes: Mapped[list[str]]
    expires_at: Mapped[datetime | None] = mapped_column()
    revoked_at: Mapped[datetime | None] = mapped_column()
    last_used_at: Mapped[datetime | None] = mapped_column()
    created_at: Mapped[datetime] = _now()


class Worker(Base):
    """A worker process, as long as it is heard of."""

    __tablename__ = "worker"

    name: Mapped[str] = mapped_column(primary_key=True)
    """host:pid:random, never used twice."""
    queue: Mapped[str]
    device: Mapped[str]
    weights: Mapped[dict[str, Any]]
    """Role to sha256; empty for workers without models."""
    code_version: Mapped[str]
    finished: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """Items since it started."""
    started_at: Mapped[datetime] = _now()
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())


__all__ = [
    "ApiKey",
    "Base",
    "Image",
    "Item",
    "ItemState",
    "Job",
    "JobKind",
    "Lane",
    "Mask",
    "Prediction",
    "PredictionState",
    "QueryStep",
    "Recipe",
    "Reservation",
    "Result",
    "Vocabulary",
    "VocabularyVersion",
    "Worker",
]
