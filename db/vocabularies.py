"""Vocabularies and recipes: each is stored once under its digest; vocabularies may have names and versions."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from car.recipe import Recipe
from car.vocabulary import Vocabulary
from db import models
from db.errors import NotFoundError
from db.pagination import Cursor


@dataclass(frozen=True)
class StoredVocabulary:
    """A stored vocabulary, with its newest name if it has any."""

    id: UUID
    digest: str
    vocabulary: Vocabulary
    created_at: datetime
    name: str | None = None
    version: int | None = None


@dataclass(frozen=True)
class StoredRecipe:
    id: UUID
    digest: str
    recipe: Recipe
    created_at: datetime


def get_or_create(session: Session, vocabulary: Vocabulary) -> UUID:
    """Return the id of an equal vocabulary, stored if there was none."""
    return _ids(session, models.Vocabulary, {vocabulary.digest: vocabulary})[vocabulary.digest]


def get_or_create_many(session: Session, vocabularies: Sequence[Vocabulary]) -> list[UUID]:
    """Return the ids of equal vocabularies in the order given, stored where there were none."""
    ids = _ids(session, models.Vocabulary, {vocabulary.digest: vocabulary for vocabulary in vocabularies})
    return [ids[vocabulary.digest] for vocabulary in vocabularies]


def get_or_create_recipe(session: Session, recipe: Recipe) -> UUID:
    """Return the id of the recipe with this digest, stored if there was none."""
    return _ids(session, models.Recipe, {recipe.digest: recipe})[recipe.digest]


def name(session: Session, vocabulary_id: UUID, called: str) -> int:
    """Store the vocabulary as the next version of a name, unless it is the last one already; return the version."""
    versions = models.VocabularyVersion
    # One writer for each name at a time, so that versions have no gaps and no duplicates.
    session.execute(select(func.pg_advisory_xact_lock(func.hashtext(called))))
    last = session.scalar(select(versions).where(versions.name == called).order_by(versions.version.desc()).limit(1))
    if last is not None and last.vocabulary_id == vocabulary_id:
        return last.version
    number = 1 if last is None else last.version + 1
    session.add(versions(name=called, version=number, vocabulary_id=vocabulary_id))
    session.flush()
    return number


def get(session: Session, vocabulary_id: UUID) -> StoredVocabulary:
    """Raises: NotFoundError."""
    stored = several(session, [vocabulary_id]).get(vocabulary_id)
    if stored is None:
        raise NotFoundError(f"there is no vocabulary {vocabulary_id}")
    return stored


def find(session: Session, called: str, version: int | None = None) -> StoredVocabulary:
    """Return a vocabulary by name: the given version, or the newest. Raises NotFoundError."""
    versions = models.VocabularyVersion
    query = (
        select(models.Vocabulary, versions)
        .join(versions, versions.vocabulary_id == models.Vocabulary.id)
        .where(versions.name == called)
        .order_by(versions.version.desc())
        .limit(1)
    )
    if version is not None:
        query = query.where(versions.version == version)
    stored = session.execute(query).one_or_none()
    if stored is None:
        which = f"{called!r}" if version is None else f"{called!r} version {version}"
        raise NotFoundError(f"there is no vocabulary {which}")
    return _vocabulary(*stored)


def page(session: Session, *, cursor: str | None, limit: int) -> tuple[list[StoredVocabulary], str | None]:
    """Return vocabularies, the newest first, and the cursor of the next page."""
    at = Cursor("vocabularies")
    query = select(models.Vocabulary).order_by(models.Vocabulary.id.desc()).limit(limit + 1)
    if cursor:
        query = query.where(models.Vocabulary.id < at.read_id(cursor))
    rows = session.scalars(query).all()
    entries = _named(session, rows[:limit])
    return entries, at.write(str(entries[-1].id)) if len(rows) > limit else None


def several(session: Session, ids: Collection[UUID]) -> dict[UUID, StoredVocabulary]:
    """Return the vocabularies with these ids, in two queries."""
    rows = session.scalars(select(models.Vocabulary).where(models.Vocabulary.id.in_(ids))).all()
    return {stored.id: stored for stored in _named(session, rows)}


def recipe(session: Session, recipe_id: UUID) -> StoredRecipe:
    """Raises: NotFoundError."""
    row = session.get(models.Recipe, recipe_id)
    if row is None:
        raise NotFoundError(f"there is no recipe {recipe_id}")
    return _recipe(row)


def recipes(session: Session, *, cursor: str | None, limit: int) -> tuple[list[StoredRecipe], str | None]:
    """Return recipes, the newest first, and the cursor of the next page."""
    at = Cursor("recipes")
    query = select(models.Recipe).order_by(models.Recipe.id.desc()).limit(limit + 1)
    if cursor:
        query = query.where(models.Recipe.id < at.read_id(cursor))
    rows = session.scalars(query).all()
    entries = [_recipe(row) for row in rows[:limit]]
    return entries, at.write(str(entries[-1].id)) if len(rows) > limit else None


def several_recipes(session: Session, ids: Collection[UUID]) -> dict[UUID, StoredRecipe]:
    """Return the recipes with these ids, in one query."""
    rows = session.scalars(select(models.Recipe).where(models.Recipe.id.in_(ids)))
    return {row.id: _recipe(row) for row in rows}


def _ids(
    session: Session, table: type[models.Vocabulary | models.Recipe], by_digest: Mapping[str, Vocabulary | Recipe]
) -> dict[str, UUID]:
    """Return the ids of vocabularies or recipes by digest, stored where there were none."""
    query = select(table.digest, table.id).where(table.digest.in_(by_digest))
    ids = dict(session.execute(query).tuples().all())
    # In one order, so that two transactions that store the same ones do not deadlock.
    new = [
        {"id": uuid7(), "digest": digest, "document": by_digest[digest].to_json()}
        for digest in sorted(by_digest.keys() - ids.keys())
    ]
    if new:
        session.execute(insert(table).values(new).on_conflict_do_nothing(index_elements=["digest"]))
        ids = dict(session.execute(query).tuples().all())
    return ids


def _named(session: Session, rows: Sequence[models.Vocabulary]) -> list[StoredVocabulary]:
    """Return vocabularies with the newest name of each."""
    versions = models.VocabularyVersion
    query = select(versions).where(versions.vocabulary_id.in_([row.id for row in rows])).order_by(versions.created_at)
    names = {version.vocabulary_id: version for version in session.scalars(query)}
    return [_vocabulary(row, names.get(row.id)) for row in rows]


def _recipe(row: models.Recipe) -> StoredRecipe:
    return StoredRecipe(row.id, row.digest, Recipe.from_json(row.document), row.created_at)


def _vocabulary(row: models.Vocabulary, version: models.VocabularyVersion | None) -> StoredVocabulary:
    newest = (version.name, version.version) if version else (None, None)
    return StoredVocabulary(row.id, row.digest, Vocabulary.from_json(row.document), row.created_at, *newest)
