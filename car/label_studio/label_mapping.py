"""Labels of a configuration as words to ask for, and where masks of them go."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from car.errors import VocabularyError
from car.label_studio.labeling_config import ConfigLabel, Control, Kind, LabelingConfig, LabelingConfigError, Problem
from car.label_studio.project_params import ProjectParams
from car.vocabulary import MAX_LABELS, Label

NO_WORDS: Final = frozenset(
    "yes no true false ok good bad other others unknown unsure none n/a na skip accept reject empty".split()
)
"""Choices that name nothing one could see."""


class PromptSource(StrEnum):
    """Where the prompts of a label are written."""

    VALUE = "value"
    PREDICTED_VALUES = "predicted_values"
    ALIAS = "alias"
    PARAMETER = "parameter prompts"


@dataclass(frozen=True)
class LabelTarget:
    """What a label is asked as, and where its masks are shown."""

    label: str
    """What the regions carry."""
    visible: str
    """What annotators read."""
    prompts: tuple[str, ...]
    """What CLIP is asked."""
    prompt_source: PromptSource
    controls: tuple[Control, ...]
    """For masks; the first is used, the others where it cannot hold a mask."""
    choices: tuple[Control, ...]
    """That are chosen where the label was found."""


@dataclass(frozen=True)
class LabelMapping:
    """The places of a project's labels, by the name under which each is asked for."""

    by_name: Mapping[str, LabelTarget]
    aliases: Mapping[str, str]
    """Other spellings (value, alias, without case) -> name."""

    def find_name(self, words: str) -> str | None:
        """The name of the label that these words name, whatever their case."""
        clean = words.strip()
        return clean if clean in self.by_name else self.aliases.get(clean.casefold())

    def single(self) -> str | None:
        """The name of the only label that there is."""
        return next(iter(self.by_name)) if len(self.by_name) == 1 else None

    def resolve(self, asked: str) -> str | None:
        """The name of the label to which a mask belongs: `asked` is the name itself, `name: words`, or other words
        where there is only one label.
        """
        if asked in self.by_name:
            return asked
        before, colon, _ = asked.partition(": ")
        return (self.find_name(before) if colon else None) or self.single()

    def target_of(self, asked: str) -> LabelTarget | None:
        """The place of a mask. None: no label of the configuration owns it."""
        name = self.resolve(asked)
        return self.by_name[name] if name is not None else None


def build_label_mapping(config: LabelingConfig, params: ProjectParams, problems: list[Problem]) -> LabelMapping:
    """Of the labels that are asked for.

    Raises:
        LabelingConfigError: none is.

    """
    spellings = {spelling: one.value for one in config.labels for spelling in (one.shown, one.alias, one.value)}
    wanted = _wanted(params, spellings, problems)
    by_name: dict[str, LabelTarget] = {}
    also: dict[str, str] = {}
    names: dict[str, str] = {}
    for one in config.labels:
        if wanted is not None and one.value not in wanted:
            continue
        place = _place(one, config, params, problems)
        name = one.value.strip()
        if place is None or not _distinct(name, names, problems):
            continue
        by_name[name] = place
        for spelling in (name, one.alias, one.shown):
            also.setdefault(spelling.strip().casefold(), name)
    if not by_name:
        raise LabelingConfigError(
            "no label of the labeling configuration is asked for: "
            + ("; ".join(one.detail for one in problems[:3]) or "give it labels that can be seen in a picture")
        )
    _tell_outputs(by_name.values(), params, problems)
    for name, words in _given_prompts(LabelMapping(by_name, also), params, problems).items():
        by_name[name] = replace(by_name[name], prompts=words, prompt_source=PromptSource.PARAMETER)
    return LabelMapping(by_name, also)


def vocabulary_labels(mapping: LabelMapping, problems: list[Problem]) -> list[Label]:
    """The vocabulary's labels with their prompts, in the order of the configuration. A prompt that two labels share is
    the first one's.
    """
    taken: dict[str, str] = {}
    labels: list[Label] = []
    for name, place in mapping.by_name.items():
        shared = [word for word in place.prompts if word.casefold() in taken]
        free = [word for word in dict.fromkeys(place.prompts) if word not in shared]
        if shared:
            owner, rest = taken[shared[0].casefold()], "it is left out" if free else "the label is not asked for"
            detail = f"prompt {shared[0]!r} of {name!r} is {owner!r}'s already, so {rest}: give each words of its own"
            problems.append(Problem("prompt_repeated" if free else "label_unusable", detail))
        taken |= dict.fromkeys((word.casefold() for word in free), name)
        if free and (label := _usable(name, free, problems)) is not None:
            labels.append(label)
    if len(labels) > MAX_LABELS:
        detail = f"the labels after the first {MAX_LABELS} are not asked for: choose with the parameter vocabulary"
        problems.append(Problem("labels_too_many", detail))
    if not labels:
        raise LabelingConfigError("no label can be asked for: " + "; ".join(one.detail for one in problems[-3:]))
    return labels[:MAX_LABELS]


def _usable(name: str, prompts: list[str], problems: list[Problem]) -> Label | None:
    try:
        return Label(name, tuple(prompts))
    except VocabularyError as error:
        problems.append(Problem("label_unusable", f"{error}; it is not asked for: give it other words"))
        return None


def _wanted(params: ProjectParams, spellings: Mapping[str, str], problems: list[Problem]) -> set[str] | None:
    if params.vocabulary is None:
        return None
    for word in params.vocabulary:
        if word not in spellings:
            detail = f"{word!r} of the parameter vocabulary is no label of the configuration and is left out"
            problems.append(Problem("vocabulary_unknown", detail))
    return {spellings[word] for word in params.vocabulary if word in spellings}


def _place(
    label: ConfigLabel, config: LabelingConfig, params: ProjectParams, problems: list[Problem]
) -> LabelTarget | None:
    """None: the label is a Choice that nobody could see."""
    holders = [one for one in config.controls if label.value in one.labels]
    order = list(Kind)
    masks = sorted((one for one in holders if one.kind is not Kind.CHOICES), key=lambda one: order.index(one.kind))
    choices = tuple(one for one in holders if one.kind is Kind.CHOICES)
    if not masks and not label.predicted and label.value not in params.prompts:
        has_masks = any(one.kind is not Kind.CHOICES for one in config.controls)
        if has_masks and params.output is not Kind.CHOICES:
            detail = (
                f"choice {label.value!r} is no label of a mask and is left to people: give it predicted_values to have "
                "it looked for"
            )
            problems.append(Problem("choice_not_asked", detail))
            return None
        if label.value.strip().casefold() in NO_WORDS:
            detail = (
                f"choice {label.value!r} names nothing to see and is left to people, unless it has predicted_values"
            )
            problems.append(Problem("choice_no_word", detail))
            return None
    if params.output is Kind.CHOICES and choices:
        masks = []
    elif params.output is not None:
        masks.sort(key=lambda one: one.kind is not params.output)
    prompts, source = _prompts(label)
    return LabelTarget(label.value, label.shown, prompts, source, tuple(masks), choices)


def _distinct(name: str, names: dict[str, str], problems: list[Problem]) -> bool:
    """Whether no name before it is the same but for case; `names` are those, by their form without case."""
    other = names.get(name.casefold())
    if other is None:
        names[name.casefold()] = name
        return True
    detail = (
        f"label {name!r} cannot be told from {other!r}, since CLIP does not see case: it is not asked for; rename it"
    )
    problems.append(Problem("label_indistinct", detail))
    return False


def _tell_outputs(places: Iterable[LabelTarget], params: ProjectParams, problems: list[Problem]) -> None:
    kind = params.output
    if kind is None:
        return
    held = {True: list[str](), False: list[str]()}
    for place in places:
        kinds = place.choices[:1] if kind is Kind.CHOICES else place.controls[:1]
        held[bool(kinds) and kinds[0].kind is kind].append(place.label)
    if held[False]:
        detail = f"{_listed(held[False])} cannot be shown as {kind}, for no such control holds them: other controls do"
        problems.append(Problem("output_unavailable", detail))


def _given_prompts(places: LabelMapping, params: ProjectParams, problems: list[Problem]) -> dict[str, tuple[str, ...]]:
    given: dict[str, tuple[str, ...]] = {}
    for label, words in params.prompts.items():
        name = places.find_name(label)
        if name is None:
            detail = f"prompts of {label!r} are not used: it is no label that is asked for"
            problems.append(Problem("prompts_unknown", detail))
        elif words:
            given[name] = words
    return given


def _prompts(label: ConfigLabel) -> tuple[tuple[str, ...], PromptSource]:
    """`predicted_values`; else what annotators read, which means what they mean; else, where that has no letters, the
    alias.
    """
    if label.predicted:
        return label.predicted, PromptSource.PREDICTED_VALUES
    if _has_letters(label.alias) and not _has_letters(label.shown):
        return (label.alias,), PromptSource.ALIAS
    return (label.shown,), PromptSource.VALUE


def _has_letters(text: str) -> bool:
    return any(character.isalpha() for character in text)


def _listed(words: Sequence[str], most: int = 5) -> str:
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
