"""/api/v1/vocabularies, /recipes and /presets: the labels and parameters of jobs, each stored once."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Response
from sqlalchemy.orm import Session

from api.dependencies import CursorParam, Limit, SessionDep
from api.schemas.common import Page, Text
from api.schemas.jobs import LabelRequest
from api.schemas.vocabularies import LabelView, PresetView, RecipeView, VocabularyRequest, VocabularyView
from api.security import Reader, Writer
from car.presets import PRESETS
from car.recipe import Mode, Recipe
from car.vocabulary import Label, Vocabulary
from db import model_registry, vocabularies
from db.errors import NotFoundError
from db.vocabularies import StoredRecipe, StoredVocabulary

router = APIRouter(prefix="/vocabularies", tags=["vocabularies"])
recipes_router = APIRouter(tags=["recipes"])
_DIGITS = 9
"""Longest version number that a row can hold."""


@router.get("", summary="Vocabularies, newest first")
def page(session: SessionDep, _: Reader, cursor: CursorParam = None, limit: Limit = 50) -> Page[VocabularyView]:
    stored, after = vocabularies.page(session, cursor=cursor, limit=limit)
    return Page(items=[view(vocabulary) for vocabulary in stored], next=after)


@router.post("", status_code=201, summary="Store a vocabulary")
def create(request: VocabularyRequest, session: SessionDep, _: Writer, response: Response) -> VocabularyView:
    """Equal vocabularies are stored once. With a name, it becomes the next version of that name, unless it equals the
    current one.
    """
    words = build_vocabulary(request.labels, request.background, request.mode)
    model_registry.check_tokens(session, words, Recipe())
    vocabulary_id = vocabularies.get_or_create(session, words)
    stored = vocabularies.get(session, vocabulary_id)
    if request.name is not None:
        stored = vocabularies.find(session, request.name, vocabularies.name(session, vocabulary_id, request.name))
    response.headers["Location"] = f"/api/v1/vocabularies/{stored.id}"
    return view(stored)


@router.get("/{reference}", summary="One vocabulary, by id, name or name@version")
def get(reference: Annotated[Text, Path(max_length=200)], session: SessionDep, _: Reader) -> VocabularyView:
    return view(find(session, reference))


@recipes_router.get("/recipes", summary="Recipes of jobs, newest first")
def list_recipes(session: SessionDep, _: Reader, cursor: CursorParam = None, limit: Limit = 50) -> Page[RecipeView]:
    recipes, after = vocabularies.recipes(session, cursor=cursor, limit=limit)
    return Page(items=[_recipe(stored) for stored in recipes], next=after)


@recipes_router.get("/recipes/{recipe_id}", summary="One recipe")
def get_recipe(recipe_id: UUID, session: SessionDep, _: Reader) -> RecipeView:
    return _recipe(vocabularies.recipe(session, recipe_id))


@recipes_router.get("/presets", summary="Named recipes")
def list_presets(_: Reader) -> Page[PresetView]:
    items = [PresetView(name=name, digest=recipe.digest, recipe=recipe.to_json()) for name, recipe in PRESETS.items()]
    return Page(items=items, next=None)


def find(session: Session, reference: str) -> StoredVocabulary:
    """Return a vocabulary by id, by name (the newest version) or by name@version.

    Raises:
        NotFoundError: there is none.

    """
    try:
        return vocabularies.get(session, UUID(reference))
    except ValueError:
        name, at, version = reference.rpartition("@")
    if not at:
        return vocabularies.find(session, reference)
    if not version.isascii() or not version.isdecimal() or len(version) > _DIGITS:
        raise NotFoundError(f"there is no vocabulary {reference!r}; a version is a number, such as {name}@1")
    return vocabularies.find(session, name, int(version))


def build_vocabulary(labels: list[str | LabelRequest], background: str | list[str], mode: Mode) -> Vocabulary:
    """Raises: VocabularyError."""
    words = [label if isinstance(label, str) else Label(label.name, tuple(label.prompts)) for label in labels]
    return Vocabulary.from_words(words, background=background, mode=mode)


def view(stored: StoredVocabulary) -> VocabularyView:
    return VocabularyView(
        id=stored.id,
        digest=stored.digest,
        name=stored.name,
        version=stored.version,
        labels=[LabelView(name=label.name, prompts=list(label.prompts)) for label in stored.vocabulary.labels],
        background=list(stored.vocabulary.background),
        created_at=stored.created_at,
    )


def _recipe(stored: StoredRecipe) -> RecipeView:
    recipe = stored.recipe
    return RecipeView(
        id=stored.id,
        digest=stored.digest,
        preset=recipe.preset,
        recipe=recipe.to_json(),
        created_at=stored.created_at,
    )
