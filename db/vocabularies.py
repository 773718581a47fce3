"""Vocabularies and recipes: each kept once, found by its digest; vocabularies may have names and versions."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
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
    """A vocabulary as it is stored, under one of its names if it has any."""

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
    """The id of an equal vocabulary, which is stored if there was none."""
    return _intern(session, models.Vocabulary, vocabulary.digest, vocabulary.to_json())


def get_or_create_many(session: Session, several: Sequence[Vocabulary]) -> list[UUID]:
    """The same for many in two statements, in the order given: each task of a project may have words of its own."""
    table = models.Vocabulary
    documents = {one.digest: one for one in several}
    known = _ids(session, documents)
    new = [
        {"id": uuid7(), "digest": digest, "document": documents[digest].to_json()}
        for digest in sorted(documents.keys() - known.keys())  # one order, so that two who keep the same wait in turn
    ]
    if new:
        session.execute(insert(table).values(new).on_conflict_do_nothing(index_elements=["digest"]))
        known = _ids(session, documents)
    return [known[one.digest] for one in several]


def get_or_create_recipe(session: Session, recipe: Recipe) -> UUID:
    """The id of a recipe of the same digest, which is stored if there was none."""
    return _intern(session, models.Recipe, recipe.digest, recipe.to_json())


def name(session: Session, vocabulary_id: UUID, called: str) -> int:
    """The next version under this name; the last one's number where that is the same vocabulary already."""
    versions = models.VocabularyVersion
    # One writer a name at a time, so that numbers have no holes and no doubles.
    session.execute(select(func.pg_advisory_xact_lock(func.hashtext(called))))
    last = session.scalars(
        select(versions).where(versions.name == called).order_by(versions.version.desc()).limit(1)
    ).one_or_none()
    if last is not None and last.vocabulary_id == vocabulary_id:
        return last.version
    number = 1 if last is None else last.version + 1
    session.add(versions(name=called, version=number, vocabulary_id=vocabulary_id))
    session.flush()
    return number


def get(session: Session, vocabulary_id: UUID) -> StoredVocabulary:
    """Raises: NotFoundError."""
    row = session.get(models.Vocabulary, vocabulary_id)
    if row is None:
        raise NotFoundError(f"there is no vocabulary {vocabulary_id}")
    version = session.scalars(
        select(models.VocabularyVersion)
        .where(models.VocabularyVersion.vocabulary_id == vocabulary_id)
        .order_by(models.VocabularyVersion.created_at.desc())
        .limit(1)
    ).one_or_none()
    return _vocabulary(row, version)


def find(session: Session, called: str, version: int | None = None) -> StoredVocabulary:
    """By name: the version asked for, or the newest.

    Raises:
        NotFoundError: no such name, or no such version of it.

    """
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
    found = session.execute(query).one_or_none()
    if found is None:
        which = f"{called!r}" if version is None else f"{called!r} version {version}"
        raise NotFoundError(f"there is no vocabulary {which}")
    return _vocabulary(*found)


def page(session: Session, *, cursor: str | None, limit: int) -> tuple[list[StoredVocabulary], str | None]:
    """Vocabularies, newest first, with the cursor of the next page."""
    at = Cursor("vocabularies")
    query = select(models.Vocabulary).order_by(models.Vocabulary.id.desc()).limit(limit + 1)
    if cursor:
        query = query.where(models.Vocabulary.id < at.read_id(cursor))
    rows = session.scalars(query).all()
    kept = _named(session, rows[:limit])
    return kept, at.write(str(kept[-1].id)) if len(rows) > limit else None


def several(session: Session, ids: Collection[UUID]) -> dict[UUID, StoredVocabulary]:
    """Those of these ids, in two queries."""
    rows = session.scalars(select(models.Vocabulary).where(models.Vocabulary.id.in_(ids))).all()
    return {one.id: one for one in _named(session, rows)}


def recipe(session: Session, recipe_id: UUID) -> StoredRecipe:
    """Raises: NotFoundError."""
    row = session.get(models.Recipe, recipe_id)
    if row is None:
        raise NotFoundError(f"there is no recipe {recipe_id}")
    return _recipe(row)


def recipes(session: Session, *, cursor: str | None, limit: int) -> tuple[list[StoredRecipe], str | None]:
    """Recipes that were used, newest first, with the cursor of the next page."""
    at = Cursor("recipes")
    query = select(models.Recipe).order_by(models.Recipe.id.desc()).limit(limit + 1)
    if cursor:
        query = query.where(models.Recipe.id < at.read_id(cursor))
    rows: Sequence[models.Recipe] = session.scalars(query).all()
    kept = [_recipe(row) for row in rows[:limit]]
    return kept, at.write(str(kept[-1].id)) if len(rows) > limit else None


def several_recipes(session: Session, ids: Collection[UUID]) -> dict[UUID, StoredRecipe]:
    """Those of these ids, in one query."""
    rows = session.scalars(select(models.Recipe).where(models.Recipe.id.in_(ids)))
    return {row.id: _recipe(row) for row in rows}


def _ids(session: Session, digests: Collection[str]) -> dict[str, UUID]:
    table = models.Vocabulary
    rows = session.execute(select(table.digest, table.id).where(table.digest.in_(digests)))
    return dict(rows.tuples().all())


def _intern(
    session: Session, table: type[models.Vocabulary | models.Recipe], digest: str, document: dict[str, Any]
) -> UUID:
    known = session.scalar(select(table.id).where(table.digest == digest))
    if known is not None:
        return known
    session.execute(
        insert(table)
        .values(id=uuid7(), digest=digest, document=document)
        .on_conflict_do_nothing(index_elements=["digest"])
    )
    return session.scalars(select(table.id).where(table.digest == digest)).one()


def _named(session: Session, rows: Sequence[models.Vocabulary]) -> list[StoredVocabulary]:
    """With the newest name of each."""
    versions = models.VocabularyVersion
    names = {
        one.vocabulary_id: one
        for one in session.scalars(
            select(versions).where(versions.vocabulary_id.in_([row.id for row in rows])).order_by(versions.created_at)
        )
    }
    return [_vocabulary(row, names.get(row.id)) for row in rows]


def _recipe(row: models.Recipe) -> StoredRecipe:
    return StoredRecipe(row.id, row.digest, Recipe.from_json(row.document), row.created_at)


def _vocabulary(row: models.Vocabulary, version: models.VocabularyVersion | None) -> StoredVocabulary:
    named = (version.name, version.version) if version else (None, None)
    return StoredVocabulary(row.id, row.digest, Vocabulary.from_json(row.document), row.created_at, *named)
