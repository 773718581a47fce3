"""Images, results, masks and query histories."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, SmallInteger, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from db.models.base import Base, number, own_id, since_now


class Image(Base):
    """An image by its content: equal bytes are one image, whatever their sources."""

    __tablename__ = "image"

    id: Mapped[int] = number()
    sha256: Mapped[str] = mapped_column(unique=True)
    width: Mapped[int]
    """After EXIF rotation, like the masks."""
    height: Mapped[int]
    format: Mapped[str]
    notes: Mapped[list[str]] = mapped_column(default=list)
    preview_key: Mapped[str | None] = mapped_column()
    """Key of a small upright JPEG on which overlays are drawn."""
    created_at: Mapped[datetime] = since_now()


class Result(Base):
    """The result of one image, one vocabulary and one recipe."""

    __tablename__ = "result"
    __table_args__ = (
        Index(None, "image_id"),
        Index("result_model_version_idx", "model_version", text("id DESC")),
        Index("result_vocabulary_idx", "vocabulary_id", text("id DESC")),
        Index("result_top_score_idx", "top_score", "id"),
    )

    id: Mapped[UUID] = own_id()
    run_key: Mapped[str] = mapped_column(unique=True)
    """car.model_version.run_key: sha256 of everything that determines the masks."""
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
    """Best score of a mask; NULL without masks."""
    timings: Mapped[dict[str, Any]]
    work: Mapped[dict[str, Any]]
    masks_key: Mapped[str]
    """Key of a JSON document with all masks as COCO RLE."""
    labelmap_key: Mapped[str]
    objects_lost_at: Mapped[datetime | None] = mapped_column()
    """When a read found its objects gone, for example by a lifecycle rule; a retry computes them again."""
    """Key of an indexed PNG: 0 is no label, k the k-th mask."""
    created_at: Mapped[datetime] = since_now()

    image: Mapped[Image] = relationship(lazy="raise")
    masks: Mapped[list["Mask"]] = relationship(lazy="raise", order_by="Mask.position")


class Reservation(Base):
    """A run that a worker computes now; others with the same run wait for its result."""

    __tablename__ = "reservation"
    __table_args__ = (Index(None, "worker"),)

    run_key: Mapped[str] = mapped_column(primary_key=True)
    worker: Mapped[str]
    lease_expires_at: Mapped[datetime]


class Mask(Base):
    """A mask without its pixels, which are in the result's objects."""

    __tablename__ = "mask"
    __table_args__ = (
        # A result has at most one mask of a label, so that a join by label duplicates no row.
        Index("mask_label_idx", "label", text("result_id DESC"), unique=True, postgresql_include=["score"]),
        Index("mask_label_score_idx", "label", "score", "result_id"),
    )

    result_id: Mapped[UUID] = mapped_column(ForeignKey("result.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    """1, 2, …: also the value in the label map."""
    label: Mapped[str]
    score: Mapped[float]
    x: Mapped[int]
    y: Mapped[int]
    width: Mapped[int]
    height: Mapped[int]
    area: Mapped[int] = mapped_column(BigInteger)
    source: Mapped[str]


class QueryStep(Base):
    """One step of the query history of one label."""

    __tablename__ = "query_step"
    __table_args__ = (
        Index("query_step_dropped_idx", "label", text("result_id DESC"), "step", postgresql_where=text("NOT kept")),
        Index("query_step_dropped_at_idx", "step", text("result_id DESC"), "label", postgresql_where=text("NOT kept")),
    )

    result_id: Mapped[UUID] = mapped_column(ForeignKey("result.id", ondelete="CASCADE"), primary_key=True)
    pass_kind: Mapped[str] = mapped_column(primary_key=True)
    """car.segmentation.Pass."""
    step: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    position: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    label: Mapped[str]
    query: Mapped[str]
    """The text that CLIP encodes."""
    score: Mapped[float]
    kept: Mapped[bool]
    area: Mapped[int] = mapped_column(BigInteger)
    iou_previous: Mapped[float | None]
    rival: Mapped[str | None]
    rival_score: Mapped[float | None]
