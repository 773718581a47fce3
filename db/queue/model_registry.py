"""The registry of models that workers have: the web process makes model versions of it without torch."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ScalarSelect, func, select
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert
from sqlalchemy.orm import Session

from car.recipe import Recipe
from db.models import WorkerModel

ANY = "*"
"""The name of a model that serves every recipe."""


def register(session: Session, proposal: str, classifier: str, weights: Mapping[str, str], *, sam: str = "") -> None:
    """Register the models of a worker: `weights` by role, sha256. Once when they are loaded, so that of workers that
    differ the one that was started last counts. `sam` is empty for recipes without one.
    """
    statement = insert(WorkerModel).values(proposal=proposal, classifier=classifier, sam=sam, weights=dict(weights))
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["proposal", "classifier", "sam"],
            set_={"weights": statement.excluded.weights, "registered_at": func.clock_timestamp()},
        )
    )


def weights_for(session: Session, recipe: Recipe) -> dict[str, str] | None:
    """Return the weights of the newest registered models that can serve `recipe`; None before any worker registered."""
    return match_weights(session.scalar(select(all_entries())), recipe)


def all_entries() -> ScalarSelect[Any]:
    """Select all entries as one value, to be asked for with something else, for `match_weights`."""
    each = func.jsonb_build_array(WorkerModel.proposal, WorkerModel.classifier, WorkerModel.sam, WorkerModel.weights)
    return select(func.jsonb_agg(aggregate_order_by(each, WorkerModel.registered_at.desc()))).scalar_subquery()


def match_weights(entries: Sequence[Any] | None, recipe: Recipe) -> dict[str, str] | None:
    """Return what `weights_for` does, from the value of `all_entries`."""
    sam = recipe.sam_model if recipe.sam else ""
    models = ([ANY, ANY, ANY if sam else ""], [recipe.proposal_model, recipe.classifier_model, sam])
    return next((dict(weights) for *names, weights in entries or () if names in models), None)
