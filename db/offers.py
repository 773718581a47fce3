"""Weights that workers have, as they tell them: the web process makes model versions of them without torch."""

from collections.abc import Mapping

from sqlalchemy import func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
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
    named = (recipe.proposal_model, recipe.classifier_model, recipe.sam_model if recipe.sam else "")
    models = [(ANY, ANY, ANY if recipe.sam else ""), named]
    query = select(Offer.weights).where(tuple_(Offer.proposal, Offer.classifier, Offer.sam).in_(models))
    newest = session.scalar(query.order_by(Offer.offered_at.desc()).limit(1))
    return dict(newest) if newest is not None else None
