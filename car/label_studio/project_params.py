"""The parameters of a project's ML backend in Label Studio (`extra_params`)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from car.label_studio.labeling_config import Kind, Problem
from car.text_data import BACKGROUNDS
from car.vocabulary import background_words

MIN_AREA: Final = 0.0001
"""Share of the image below which a component is noise: 10 x 10 pixels of 1,000 x 1,000."""


@dataclass(frozen=True)
class ProjectParams:
    """The known keys; None or empty if absent."""

    preset: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    """`set`: settings of the recipe, as in `--set`."""
    background: tuple[str, ...] | None = None
    prompts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    vocabulary: tuple[str, ...] | None = None
    """The queried labels; None: all."""
    output: Kind | None = None
    min_area: float = MIN_AREA
    """Below 1 a share of the image, otherwise pixels."""
    referring: str | None = None
    """Key of the task's data that has its words."""
    problems: tuple[Problem, ...] = ()


def read_params(given: Mapping[str, Any] | str | None) -> ProjectParams:
    """Parse a mapping or its JSON text. An invalid parameter becomes a problem and is ignored.

    Raises:
        VocabularyError: a background list is unknown.

    """
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    for key, value in _mapping(given, problems).items():
        reader = _READERS.get(key)
        if reader is None:
            known = ", ".join(_READERS)
            problems.append(Problem("parameter_unknown", f"parameter {key!r} is unknown; known parameters: {known}"))
            continue
        name, read, takes = reader
        try:
            values[name] = read(value)
        except (TypeError, ValueError, AttributeError):
            shown = json.dumps(value, default=str)[:60]
            problems.append(Problem("parameter_invalid", f"parameter {key}={shown} is ignored: it must be {takes}"))
    return ProjectParams(**values, problems=tuple(problems))


def _mapping(given: Mapping[str, Any] | str | None, problems: list[Problem]) -> Mapping[str, Any]:
    if isinstance(given, str):
        try:
            given = json.loads(given) if given.strip() else None
        except json.JSONDecodeError:
            given = []  # type: ignore[assignment] # no mapping
    if given is None or isinstance(given, Mapping):
        return given or {}
    problems.append(
        Problem("parameters_invalid", 'the parameters are ignored: they must be a JSON object, {"preset": …}')
    )
    return {}


def _settings(value: Mapping[str, Any]) -> dict[str, str]:
    return {str(key): _setting(one) for key, one in value.items()}


def _setting(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return "+".join(map(str, value))
    if not isinstance(value, str | int | float):
        raise TypeError(value)
    return str(value)


def _words(value: object) -> tuple[str, ...]:
    """Return the items of a list or of a comma-separated text."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(one, str) for one in parts):
        raise TypeError(value)
    return tuple(dict.fromkeys(one.strip() for one in parts if one.strip()))


def _background(value: object) -> tuple[str, ...]:
    """Return background words from words and names of lists; `terrestrial+man-made` is two lists."""
    words: dict[str, None] = {}
    for one in _words(value):
        named = "+" in one or one in BACKGROUNDS
        words |= dict.fromkeys(background_words(one) if named else (one,))
    return tuple(words)


def _prompts(value: Mapping[str, object]) -> dict[str, tuple[str, ...]]:
    return {str(label): _words(words) for label, words in value.items()}


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TypeError(value)
    return value.strip()


def _area(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise TypeError(value)
    return float(value)


_READERS: Final[dict[str, tuple[str, Any, str]]] = {
    "preset": ("preset", _text, "the name of a preset"),
    "set": ("settings", _settings, 'keys of the recipe, as {"theta": 0.4}'),
    "background": ("background", _background, f"a list of words, or of {', '.join(BACKGROUNDS)}"),
    "prompts": ("prompts", _prompts, 'prompts of labels, as {"car": ["car", "sedan"]}'),
    "vocabulary": ("vocabulary", _words, "a list of labels of the configuration"),
    "output": ("output", Kind, "one of " + ", ".join(Kind)),
    "min_area": ("min_area", _area, "a share of the image below 1, or pixels"),
    "referring": ("referring", _text, "the key of the tasks' data that has their words"),
}
