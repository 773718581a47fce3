"""One result with its masks, history, sources, recipe and vocabulary."""

from dataclasses import dataclass
from itertools import groupby
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from car.model_cards import ModelCard
from car.recipe import Recipe
from car.segmentation import Pass, QueryScore, Step, StopReason
from db import model_registry, vocabularies
from db.errors import NotFoundError
from db.models import Image, Item, QueryStep, Result
from db.results.queries import MaskView, masks_of
from db.vocabularies import StoredVocabulary

_MAX_SOURCES = 20


@dataclass(frozen=True)
class ImageSource:
    """Where a job found the image of a result."""

    job: UUID
    uri: str
    reused: bool


@dataclass(frozen=True)
class Stored:
    """A result's row and its image's, which hold the keys of its objects."""

    row: Result
    image: Image


@dataclass(frozen=True)
class Detail:
    stored: Stored
    masks: tuple[MaskView, ...]
    steps: tuple[Step, ...]
    sources: tuple[ImageSource, ...]
    recipe: Recipe
    vocabulary: StoredVocabulary
    cards: dict[str, ModelCard]
    """Role to the card of the weights that ran, where a worker has registered one."""

    @property
    def models(self) -> dict[str, str]:
        """Role to the name of the model that ran, or to the beginning of its digest."""
        names = {role: card.name for role, card in self.cards.items()}
        return {role: digest[:8] for role, digest in self.stored.row.weights.items()} | names


def stored(session: Session, result_id: UUID) -> Stored:
    """Raises: NotFoundError."""
    query = select(Result, Image).join(Image, Image.id == Result.image_id).where(Result.id == result_id)
    rows = session.execute(query).one_or_none()
    if rows is None:
        raise NotFoundError(f"there is no result {result_id}")
    return Stored(*rows)


def get(session: Session, result_id: UUID) -> Detail:
    """Raises: NotFoundError."""
    result = stored(session, result_id)
    # Those of the oldest jobs.
    sources = select(Item.job_id, Item.uri, Item.reused).where(Item.result_id == result_id)
    return Detail(
        stored=result,
        masks=masks_of(session, [result_id]).get(result_id, ()),
        steps=steps(session, result_id),
        sources=tuple(ImageSource(*row) for row in session.execute(sources.order_by(Item.job_id).limit(_MAX_SOURCES))),
        recipe=vocabularies.recipe(session, result.row.recipe_id).recipe,
        vocabulary=vocabularies.get(session, result.row.vocabulary_id),
        cards=model_registry.cards_of(session, result.row.weights),
    )


def history(session: Session, result_id: UUID) -> tuple[StopReason, tuple[Step, ...]]:
    """Return why the recurrence stopped, and its steps. Raises NotFoundError."""
    return StopReason(stored(session, result_id).row.stop_reason), steps(session, result_id)


def steps(session: Session, result_id: UUID) -> tuple[Step, ...]:
    """Return the steps in the segmenter's order: things before stuff, queries in the order of the vocabulary."""
    score = (QueryStep.score, QueryStep.kept, QueryStep.area)
    rival = (QueryStep.iou_previous, QueryStep.rival, QueryStep.rival_score)
    query = select(QueryStep.pass_kind, QueryStep.step, QueryStep.label, QueryStep.query, *score, *rival)
    query = query.where(QueryStep.result_id == result_id)
    order = (QueryStep.pass_kind == str(Pass.STUFF), QueryStep.step, QueryStep.position)
    return tuple(
        Step(number, tuple(QueryScore(*row[2:]) for row in group), Pass(pass_kind))
        for (pass_kind, number), group in groupby(session.execute(query.order_by(*order)), lambda row: row[:2])
    )
