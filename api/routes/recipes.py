"""/api/v1/recipes and /presets: the parameters of jobs."""

from uuid import UUID

from fastapi import APIRouter

from api.dependencies import CursorParam, Limit, SessionDep
from api.schemas import Page, PresetView, RecipeView
from api.security import Reader
from car.presets import PRESETS
from db import vocabularies
from db.vocabularies import StoredRecipe

router = APIRouter(tags=["recipes"])


@router.get("/recipes", summary="Recipes that jobs used, newest first")
def page(session: SessionDep, _: Reader, cursor: CursorParam = None, limit: Limit = 50) -> Page[RecipeView]:
    kept, after = vocabularies.recipes(session, cursor=cursor, limit=limit)
    return Page(items=[_view(one) for one in kept], next=after)


@router.get("/recipes/{recipe_id}", summary="One recipe")
def get(recipe_id: UUID, session: SessionDep, _: Reader) -> RecipeView:
    return _view(vocabularies.recipe(session, recipe_id))


@router.get("/presets", summary="Recipes to begin with")
def presets(_: Reader) -> Page[PresetView]:
    shown = [PresetView(name=name, digest=one.digest, recipe=one.to_json()) for name, one in PRESETS.items()]
    return Page(items=shown, next=None)


def _view(kept: StoredRecipe) -> RecipeView:
    document = kept.recipe.to_json()
    return RecipeView(
        id=kept.id, digest=kept.digest, preset=kept.recipe.preset, recipe=document, created_at=kept.created_at
    )
