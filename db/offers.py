"""Weights that workers have, as they tell them: the web process makes model versions of them without torch."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ScalarSelect, func, select
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert
from sqlalchemy.orm import Session

from car.recipe import Recipe
from db.models import Offer

ANY = "*"
"""The name of a model that serves every recipe."""


def offer(session: Session, proposal: str, classifier: str, weights: Mapping[str, str], *, sam: str = "") -> None:
    """A worker has these models: `weights` by role, sha256. Once when they are loaded, so that of workers that differ
    the one that was started last counts. `sam` is empty for recipes without one.
    """
    statement = insert(Offer).values(proposal=proposal, classifier=classifier, sam=sam, weights=dict(weights))
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["proposal", "classifier", "sam"],
            set_={"weights": statement.excluded.weights, "offered_at": func.clock_timestamp()},
        )
    )


def offered(session: Session, recipe: Recipe) -> dict[str, str] | None:
    """The weights that the newest worker which can follow this recipe has; none before any worker told them."""
    return of(session.scalar(select(every())), recipe)


def every() -> ScalarSelect[Any]:
    """All that are offered, to be asked for with something else; there are as many as pairs of models. See `of`."""
    each = func.jsonb_build_array(Offer.proposal, Offer.classifier, Offer.sam, Offer.weights)
    return select(func.jsonb_agg(aggregate_order_by(each, Offer.offered_at.desc()))).scalar_subquery()


def of(told: Sequence[Any] | None, recipe: Recipe) -> dict[str, str] | None:
    """As `offered`, from what `every` has found."""
    sam = recipe.sam_model if recipe.sam else ""
    models = ([ANY, ANY, ANY if sam else ""], [recipe.proposal_model, recipe.classifier_model, sam])
    return next((dict(weights) for *names, weights in told or () if names in models), None)
