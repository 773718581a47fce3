"""One result with all there is about it."""

from dataclasses import dataclass
from itertools import groupby
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from car.recipe import Recipe
from car.segmentation import Pass, QueryScore, Step, StopReason
from db import vocabularies
from db.errors import NotFoundError
from db.models import Image, QueryStep, Result
from db.results.queries import MaskView, masks_of
from db.vocabularies import StoredVocabulary

PLACES = 20


@dataclass(frozen=True)
class Place:
    """Where the picture of a result lies, as a job found it."""

    job: UUID
    uri: str
    reused: bool


@dataclass(frozen=True)
class Stored:
    """A result's row and its picture's: what finds its objects."""

    row: Result
    image: Image


@dataclass(frozen=True)
class Detail:
    stored: Stored
    masks: tuple[MaskView, ...]
    steps: tuple[Step, ...]
    places: tuple[Place, ...]
    recipe: Recipe
    vocabulary: StoredVocabulary


def stored(session: Session, result_id: UUID) -> Stored:
    """Raises: NotFoundError."""
    found = session.execute(
        select(Result, Image).join(Image, Image.id == Result.image_id).where(Result.id == result_id)
    ).one_or_none()
    if found is None:
        raise NotFoundError(f"there is no result {result_id}")
    return Stored(*found)


def get(session: Session, result_id: UUID) -> Detail:
    """Raises: NotFoundError."""
    found = stored(session, result_id)
    return Detail(
        stored=found,
        masks=masks_of(session, [result_id]).get(result_id, ()),
        steps=steps(session, result_id),
        places=places(session, result_id),
        recipe=vocabularies.recipe(session, found.row.recipe_id).recipe,
        vocabulary=vocabularies.get(session, found.row.vocabulary_id),
    )


def history(session: Session, result_id: UUID) -> tuple[StopReason, tuple[Step, ...]]:
    """Why the recurrence stopped, and every step of it.

    Raises:
        NotFoundError: no such result.

    """
    return StopReason(stored(session, result_id).row.stop_reason), steps(session, result_id)


def steps(session: Session, result_id: UUID) -> tuple[Step, ...]:
    """As the segmenter gave them: things before stuff, queries in the order of the vocabulary."""
    rows = session.scalars(
        select(QueryStep)
        .where(QueryStep.result_id == result_id)
        .order_by(QueryStep.pass_kind == str(Pass.STUFF), QueryStep.step, QueryStep.position)
    )
    return tuple(
        Step(number, tuple(_query(row) for row in group), Pass(pass_kind))
        for (pass_kind, number), group in groupby(rows, key=lambda row: (row.pass_kind, row.step))
    )


def places(session: Session, result_id: UUID, *, limit: int = PLACES) -> tuple[Place, ...]:
    """Some of the places, those of the oldest jobs first."""
    query = text("""
        SELECT job_id, uri, reused FROM item WHERE result_id = :result ORDER BY job_id LIMIT :limit
    """)
    values: dict[str, Any] = {"result": result_id, "limit": limit}
    return tuple(Place(*row) for row in session.execute(query, values))


def _query(row: QueryStep) -> QueryScore:
    return QueryScore(
        label=row.label,
        text=row.query,
        score=row.score,
        kept=row.kept,
        area=row.area,
        iou_previous=row.iou_previous,
        rival=row.rival,
        rival_score=row.rival_score,
    )
