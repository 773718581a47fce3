"""The project config: a labeling configuration and parameters, resolved to vocabulary, recipe and label mapping."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from car.errors import SourceError, VocabularyError
from car.label_studio.label_mapping import LabelMapping, build_label_mapping, vocabulary_labels
from car.label_studio.labeling_config import Control, LabelingConfig, Problem
from car.label_studio.labeling_xml import parse_labeling_config
from car.label_studio.project_params import ProjectParams, read_params
from car.label_studio.prompts import (
    Prompt,
    PromptInvalidError,
    SpatialPrompt,
    read_prompt,
    with_labels,
    without,
    words_of_task,
)
from car.presets import apply_settings
from car.presets import preset as named_preset
from car.recipe import Mode, Recipe
from car.vocabulary import Label, Vocabulary, background_words

__all__ = ["ProjectConfig", "Prompt", "PromptInvalidError", "SpatialPrompt", "build_project_config"]

REGION_FORMAT: Final = "1"
"""Version of how masks become regions, raised when equal masks can become other regions."""
_CACHED: Final = 256
_VARIABLE: Final = re.compile(r"\$([\w.\[\]]+)")


@dataclass(frozen=True)
class ProjectConfig:
    """What is queried for every image of a project, and how masks are shown."""

    config: LabelingConfig
    recipe: Recipe
    vocabulary: Vocabulary | None
    """None: each task has its own words."""
    vocabulary_digest: str
    """Sha256 (hex) of the vocabulary, or of the rule for words of tasks."""
    region_digest: str
    """Sha256 (hex) of how masks become regions."""
    problems: tuple[Problem, ...]
    mapping: LabelMapping
    """How masks of a label are shown."""
    params: ProjectParams
    base: Vocabulary
    """The labels of the project, even if each task has its own words."""

    def image_of(self, data: Mapping[str, Any]) -> str:
        """Return the image's unresolved address in a task's data.

        Raises:
            SourceError: the data have none.

        """
        template = self.config.image.value
        if template.startswith("$") and isinstance(data.get(template[1:]), str) and data[template[1:]].strip():
            return str(data[template[1:]]).strip()  # a key of any spelling: `$my-image`
        values = {name: _lookup(data, name) for name in _VARIABLE.findall(template)}
        for name, value in values.items():
            if not isinstance(value, str) or not value.strip():
                held = ", ".join(sorted(map(str, data))[:10]) or "nothing"
                wrong = "no" if value in (None, "") else "no single"
                raise SourceError(
                    f"the task's data have {wrong} image under {name!r}, which the configuration shows; "
                    f"they have {held}"
                )
        return _VARIABLE.sub(lambda match: values[match.group(1)].strip(), template)

    def vocabulary_of(self, data: Mapping[str, Any]) -> Vocabulary:
        """Return the vocabulary of one task: the project's, or its own words.

        Raises:
            VocabularyError: the task has no words, or words that belong to no label.

        """
        if self.vocabulary is not None or self.referring is None:
            return self.base
        given = _lookup(data, self.referring)
        if given is None:
            held = ", ".join(sorted(map(str, data))[:10]) or "nothing"
            raise VocabularyError(f"the task's data have no words under {self.referring!r}; they have {held}")
        return words_of_task(given, self.referring, self.mapping, self.base)

    def prompt_of(self, context: Mapping[str, Any], data: Mapping[str, Any]) -> Prompt:
        """Return the prompt of /predict's `params.context`.

        Raises:
            PromptInvalidError: it names nothing to segment.

        """
        prompt = read_prompt(context, self.mapping, self.base)
        if prompt.vocabulary is None and self.vocabulary is None and prompt.labels:
            # A click names labels even if tasks have their own words: these labels are queried unchanged.
            known = {label.name: label for label in self.base.labels}
            labels = [known.get(name) or Label(name, self.mapping.by_name[name].prompts) for name in prompt.labels]
            return replace(prompt, vocabulary=with_labels(self.base, labels))
        if prompt.vocabulary is None and self.vocabulary is None:
            return replace(prompt, vocabulary=self.vocabulary_of(data))
        return prompt

    @property
    def referring(self) -> str | None:
        """The key of a task's data that has its words."""
        return _referring(self.config, self.params)


def build_project_config(
    label_config: str, extra_params: Mapping[str, Any] | str | None, *, preset: str
) -> ProjectConfig:
    """Return the config of a project, cached by content. `preset` applies if `extra_params` have none.

    Raises:
        LabelingConfigError: no control can show a mask.
        RecipeError: `extra_params` have an unknown preset or an invalid setting.
        VocabularyError: `extra_params` have an invalid word.

    """
    given = extra_params if isinstance(extra_params, str) else json.dumps(extra_params or {}, sort_keys=True)
    return _resolve_config(label_config, given, preset)


@lru_cache(maxsize=_CACHED)
def _resolve_config(label_config: str, extra_params: str, preset: str) -> ProjectConfig:
    params = read_params(extra_params)
    config = parse_labeling_config(label_config)
    problems = [*config.problems, *params.problems]
    places = build_label_mapping(config, params, problems)
    recipe = _recipe(config, params, preset)
    labels = vocabulary_labels(places, problems)
    base = _vocabulary(labels, params, recipe.mode, problems)
    referring = _referring(config, params)
    return ProjectConfig(
        config=config,
        recipe=recipe,
        vocabulary=None if referring else base,
        vocabulary_digest=_digest(["words of each task", referring, base.to_json()]) if referring else base.digest,
        region_digest=_digest([REGION_FORMAT, config.image.name, _targets_json(places), params.min_area]),
        problems=tuple(problems),
        mapping=places,
        params=params,
        base=base,
    )


def _recipe(config: LabelingConfig, params: ProjectParams, preset: str) -> Recipe:
    settings: dict[str, str] = {}
    if _referring(config, params):
        settings["mode"] = Mode.REFER
    if config.threshold is not None:
        settings["theta"] = str(config.threshold)
    return apply_settings(named_preset(params.preset or preset), settings | dict(params.settings))


def _vocabulary(labels: list[Label], params: ProjectParams, mode: Mode, problems: list[Problem]) -> Vocabulary:
    given = params.background
    background = without(background_words("shipped") if given is None else given, labels)
    for word in sorted(set(given or ()) - set(background)):
        detail = f"background word {word!r} is also a label and is not used as background"
        problems.append(Problem("background_is_label", detail))
    return Vocabulary.from_words(labels, background=background, mode=mode)


def _referring(config: LabelingConfig, params: ProjectParams) -> str | None:
    key = params.referring or config.referring
    return key.removeprefix("$") if key else None


def _targets_json(targets: LabelMapping) -> list[Any]:
    return [
        [name, one.label, _controls_json(one.controls), _controls_json(one.choices)]
        for name, one in targets.by_name.items()
    ]


def _controls_json(controls: tuple[Control, ...]) -> list[Any]:
    return [[one.name, str(one.kind), one.labels_name, one.single] for one in controls]


def _lookup(data: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401 - whatever the task holds
    """Return the value of a key or of a path such as `photo.url` or `photos[0]`, or None."""
    if name in data:
        return data[name]
    value: Any = data
    for step in re.findall(r"[^.\[\]]+", name):
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def _digest(document: list[Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
