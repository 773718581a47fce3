"""The models that workers have loaded, from which the web process makes model versions without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from sqlalchemy import ScalarSelect, func, select, tuple_
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert
from sqlalchemy.orm import Session

from car.clip_tokenizer import OPENAI, ClipTokenizer, tokenizer_of
from car.model_cards import ModelCard, vocabulary_warnings
from car.recipe import Recipe
from car.vocabulary import Vocabulary
from db.models import WeightsCard, WorkerModel

ANY = "*"
"""Name of a model that serves every recipe."""


def register(
    session: Session,
    proposal: str,
    classifier: str,
    weights: Mapping[str, str],
    tokenizers: Mapping[str, str] = MappingProxyType({}),
    *,
    sam: str = "",
    cards: Mapping[str, ModelCard] = MappingProxyType({}),
) -> None:
    """Register a worker's models, by role: the sha256 of their weights, the merges of their tokenizers, their cards.

    `sam` is empty for recipes without SAM. Call it once after loading, so that among different workers the last one
    that was started counts.
    """
    statement = insert(WorkerModel).values(
        proposal=proposal, classifier=classifier, sam=sam, weights=dict(weights), tokenizers=dict(tokenizers)
    )
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["proposal", "classifier", "sam"],
            set_={
                "weights": statement.excluded.weights,
                "tokenizers": statement.excluded.tokenizers,
                "registered_at": func.clock_timestamp(),
            },
        )
    )
    if rows := {weights[role]: {"sha256": weights[role], **asdict(card)} for role, card in cards.items()}:
        insert_cards = insert(WeightsCard).values(list(rows.values()))
        session.execute(
            insert_cards.on_conflict_do_update(
                index_elements=["sha256"],
                set_={name: insert_cards.excluded[name] for name in ("name", "words", "note")},
            )
        )


def cards_of(session: Session, weights: Mapping[str, str]) -> dict[str, ModelCard]:
    """Return the model card of each role whose weights a worker has registered."""
    rows = session.scalars(select(WeightsCard).where(WeightsCard.sha256.in_(weights.values())))
    cards = {row.sha256: ModelCard(row.name, tuple(row.words), row.note) for row in rows}
    return {role: cards[sha256] for role, sha256 in weights.items() if sha256 in cards}


def weights_for(session: Session, recipe: Recipe) -> dict[str, str] | None:
    """Return the weights of the newest registered models that can serve `recipe`; None before any worker registered."""
    return match_weights(session.scalar(select(all_entries())), recipe)


def all_entries() -> ScalarSelect[Any]:
    """Return a subquery of all entries as one value for `match_weights`, to be selected together with other rows."""
    entry = func.jsonb_build_array(WorkerModel.proposal, WorkerModel.classifier, WorkerModel.sam, WorkerModel.weights)
    return select(func.jsonb_agg(aggregate_order_by(entry, WorkerModel.registered_at.desc()))).scalar_subquery()


def tokenizers_for(session: Session, recipe: Recipe) -> list[ClipTokenizer]:
    """Return the tokenizers of the newest registered models that can serve `recipe`; OpenAI's before any worker
    registered.
    """
    serves = [(ANY, ANY), (recipe.proposal_model, recipe.classifier_model)]
    newest = (
        select(WorkerModel.tokenizers)
        .where(tuple_(WorkerModel.proposal, WorkerModel.classifier).in_(serves))
        .order_by(WorkerModel.registered_at.desc())
        .limit(1)
    )
    registered = session.scalar(newest) or {}
    return [tokenizer_of(merges) for merges in sorted(set(registered.values())) or [OPENAI]]


def check_tokens(session: Session, vocabulary: Vocabulary, recipe: Recipe) -> None:
    """Check that the models of `recipe` can read every text.

    Raises:
        VocabularyError: a text has more tokens than they read; the message names the word.

    """
    for tokenizer in tokenizers_for(session, recipe):
        vocabulary.check_tokens(tokenizer)


def warnings(session: Session, vocabulary: Vocabulary, recipe: Recipe) -> list[str] | None:
    """Return what its models' cards say about a vocabulary; None before any worker registered models for the recipe."""
    weights = weights_for(session, recipe)
    return None if weights is None else vocabulary_warnings(cards_of(session, weights).values(), vocabulary)


def match_weights(entries: Sequence[Any] | None, recipe: Recipe) -> dict[str, str] | None:
    """Return the result of `weights_for`, from the value of `all_entries`."""
    sam = recipe.sam_model if recipe.sam else ""
    models = ([ANY, ANY, ANY if sam else ""], [recipe.proposal_model, recipe.classifier_model, sam])
    return next((dict(weights) for *names, weights in entries or () if names in models), None)
