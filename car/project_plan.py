"""What a Label Studio project asks for: its labeling configuration and parameters become a vocabulary, a recipe and a
way of showing masks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from car.errors import CarError
from car.labeling_config import LabelingConfig, Problem
from car.recipe import Recipe
from car.vocabulary import Vocabulary


class PromptInvalid(CarError):
    """A prompt or a click in Label Studio's editor from which no question can be made."""

    code = "prompt_invalid"


@dataclass(frozen=True)
class Within:
    """The part of a picture that a person pointed at, in percent of its sides."""

    points: tuple[tuple[float, float], ...] = ()
    """x, y of what is meant: the pieces of masks under them are kept."""
    others: tuple[tuple[float, float], ...] = ()
    """x, y of what is not meant: the pieces under them are taken out."""
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    """x, y, width, height: masks are cut to them."""


@dataclass(frozen=True)
class Prompt:
    """What a person asks in the editor about one picture."""

    vocabulary: Vocabulary | None
    """None: the project's, or the task's own."""
    only: tuple[str, ...] | None
    """Labels that are wanted; None: all."""
    within: Within | None


@dataclass(frozen=True)
class ProjectPlan:
    """What is asked of every picture of a project, and how the answer is shown."""

    config: LabelingConfig
    recipe: Recipe
    vocabulary: Vocabulary | None
    """None: each task gives its own words."""
    words: str
    """Sha256 (hex) of the vocabulary, or of how tasks give theirs."""
    regions: str
    """Sha256 (hex) of how masks become regions."""
    problems: tuple[Problem, ...]

    def image_of(self, data: Mapping[str, Any]) -> str:
        """The picture's address as the task gives it. Raises: SourceError."""
        raise NotImplementedError

    def vocabulary_of(self, data: Mapping[str, Any]) -> Vocabulary:
        """The vocabulary of one task: the project's, or of its own words. Raises: VocabularyError."""
        raise NotImplementedError

    def prompt_of(self, context: Mapping[str, Any], data: Mapping[str, Any]) -> Prompt:
        """What /predict's `params.context` asks. Raises: PromptInvalid."""
        raise NotImplementedError


def plan_project(label_config: str, extra_params: Mapping[str, Any] | str | None, *, preset: str) -> ProjectPlan:
    """The plan of a project; cached by content.

    Raises:
        LabelingConfigError: nothing in the configuration can show a mask.
        RecipeError: a preset or a setting in `extra_params` that no recipe can hold.
        VocabularyError: a word in `extra_params` that cannot be asked for.

    """
    raise NotImplementedError
