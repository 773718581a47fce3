"""Weights that workers have, as they tell them: the web process makes model versions of them without torch."""

from collections.abc import Mapping

from sqlalchemy import func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from car.recipe import Recipe
from db.models import Offer

ANY = "*"
"""Both names of a pair that serves every recipe."""


def offer(session: Session, proposal: str, classifier: str, weights: Mapping[str, str]) -> None:
    """A worker has this pair: `weights` by role, sha256. Once when it is loaded, so that of workers that differ the one
    that was started last counts.
    """
    statement = insert(Offer).values(proposal=proposal, classifier=classifier, weights=dict(weights))
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["proposal", "classifier"],
            set_={"weights": statement.excluded.weights, "offered_at": func.clock_timestamp()},
        )
    )


def offered(session: Session, recipe: Recipe) -> dict[str, str] | None:
    """The weights that the newest worker which can follow this recipe has; none before any worker told them."""
    pairs = [(ANY, ANY), (recipe.proposal_model, recipe.classifier_model)]
    query = select(Offer.weights).where(tuple_(Offer.proposal, Offer.classifier).in_(pairs))
    newest = session.scalar(query.order_by(Offer.offered_at.desc()).limit(1))
    return dict(newest) if newest is not None else None
