"""Vocabularies, recipes and presets."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from api.schemas.common import RequestModel, ResponseModel, Text
from api.schemas.jobs import LabelRequest
from car.recipe import Mode


def _not_an_id(name: str) -> str:
    try:
        UUID(name)
    except ValueError:
        return name
    raise ValueError("looks like an id; give a word")


VocabularyName = Annotated[str, StringConstraints(pattern=r"^[^\W_][\w .-]{0,99}$"), AfterValidator(_not_an_id)]


class VocabularyRequest(RequestModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "defects", "labels": ["rust", {"name": "crack", "prompts": ["a crack"]}]}]
        }
    )

    labels: list[Text | LabelRequest]
    name: VocabularyName | None = Field(default=None, description="makes it the next version of this name")
    background: Text | list[Text] = Field(
        default="shipped", description="words that compete with the labels and get no mask"
    )
    mode: Mode = Field(default=Mode.SEMANTIC, description="text templates: the mode of the recipe it is meant for")


class LabelView(ResponseModel):
    name: str
    prompts: list[str]


class VocabularyView(ResponseModel):
    id: UUID
    digest: str
    name: str | None
    version: int | None
    labels: list[LabelView]
    background: list[str]
    created_at: datetime


class RecipeView(ResponseModel):
    id: UUID
    digest: str
    preset: str
    recipe: dict[str, Any]
    created_at: datetime


class PresetView(ResponseModel):
    name: str
    digest: str
    recipe: dict[str, Any]
