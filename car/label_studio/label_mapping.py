"""The label mapping: which prompts a configuration's labels have, and which controls show their masks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from car.clip_tokenizer import clean_text
from car.errors import VocabularyError
from car.label_studio.labeling_config import ConfigLabel, Control, Kind, LabelingConfig, LabelingConfigError, Problem
from car.label_studio.project_params import ProjectParams
from car.vocabulary import MAX_LABELS, Label

NO_WORDS: Final = frozenset(
    "yes no true false ok good bad other others unknown unsure none n/a na skip accept reject empty".split()
)
"""Values of Choices that do not name visible things."""


class PromptSource(StrEnum):
    """Where a label's prompts come from."""

    VALUE = "value"
    PREDICTED_VALUES = "predicted_values"
    ALIAS = "alias"
    PARAMETER = "parameter prompts"


@dataclass(frozen=True)
class LabelTarget:
    """A label with its prompts and the controls that show its masks."""

    label: str
    """The label of the regions."""
    visible: str
    """The label that annotators see."""
    prompts: tuple[str, ...]
    """The texts that CLIP gets."""
    prompt_source: PromptSource
    controls: tuple[Control, ...]
    """For masks: the first one, or a later one if it cannot hold a mask."""
    choices: tuple[Control, ...]
    """Choices that are selected if the label was found."""


@dataclass(frozen=True)
class LabelMapping:
    """The label targets of a project, by the label's name in the vocabulary."""

    by_name: Mapping[str, LabelTarget]
    aliases: Mapping[str, str]
    """Other spellings (value, alias, case-folded) -> name."""

    def find_name(self, words: str) -> str | None:
        """Return the name of the label with this spelling, in any case."""
        clean = words.strip()
        return clean if clean in self.by_name else self.aliases.get(clean_text(clean))

    def single(self) -> str | None:
        """Return the name of the only label, or None if there are several."""
        return next(iter(self.by_name)) if len(self.by_name) == 1 else None

    def resolve(self, asked: str) -> str | None:
        """Return the label of a mask. `asked` is its name, `name: words`, or any words if there is only one label."""
        if asked in self.by_name:
            return asked
        before, colon, _ = asked.partition(": ")
        return (self.find_name(before) if colon else None) or self.single()

    def target_of(self, asked: str) -> LabelTarget | None:
        """Return the target of a mask, or None if it belongs to no label of the configuration."""
        name = self.resolve(asked)
        return self.by_name[name] if name is not None else None


def build_label_mapping(config: LabelingConfig, params: ProjectParams, problems: list[Problem]) -> LabelMapping:
    """Return the mapping of the labels that are queried.

    Raises:
        LabelingConfigError: no label can be queried.

    """
    spellings = {spelling: one.value for one in config.labels for spelling in (one.shown, one.alias, one.value)}
    wanted = _selected_labels(params, spellings, problems)
    by_name: dict[str, LabelTarget] = {}
    also: dict[str, str] = {}
    names: dict[str, str] = {}
    for one in config.labels:
        if wanted is not None and one.value not in wanted:
            continue
        place = _label_target(one, config, params, problems)
        name = one.value.strip()
        if place is None or not _distinct(name, names, problems):
            continue
        by_name[name] = place
        for spelling in (name, one.alias, one.shown):
            also.setdefault(clean_text(spelling.strip()), name)
    if not by_name:
        raise LabelingConfigError(
            "no label of the labeling configuration can be queried: "
            + ("; ".join(one.detail for one in problems[:3]) or "add labels of visible things")
        )
    _report_outputs(by_name.values(), params, problems)
    for name, words in _configured_prompts(LabelMapping(by_name, also), params, problems).items():
        by_name[name] = replace(by_name[name], prompts=words, prompt_source=PromptSource.PARAMETER)
    return LabelMapping(by_name, also)


def vocabulary_labels(mapping: LabelMapping, problems: list[Problem]) -> list[Label]:
    """Return the vocabulary's labels with their prompts, in the order of the configuration. A prompt that two labels
    share belongs to the first one.
    """
    taken: dict[str, str] = {}
    labels: list[Label] = []
    for name, place in mapping.by_name.items():
        shared = [word for word in place.prompts if clean_text(word) in taken]
        free = [word for word in dict.fromkeys(place.prompts) if word not in shared]
        if shared:
            owner, rest = taken[clean_text(shared[0])], "it is left out" if free else "the label is not queried"
            detail = f"prompt {shared[0]!r} of {name!r} already belongs to {owner!r}, so {rest}: use different words"
            problems.append(Problem("prompt_repeated" if free else "label_unusable", detail))
        taken |= dict.fromkeys((clean_text(word) for word in free), name)
        if free and (label := _usable(name, free, problems)) is not None:
            labels.append(label)
    if len(labels) > MAX_LABELS:
        detail = f"only the first {MAX_LABELS} labels are queried: select labels with the parameter vocabulary"
        problems.append(Problem("labels_too_many", detail))
    if not labels:
        raise LabelingConfigError("no label can be queried: " + "; ".join(one.detail for one in problems[-3:]))
    return labels[:MAX_LABELS]


def _usable(name: str, prompts: list[str], problems: list[Problem]) -> Label | None:
    try:
        return Label(name, tuple(prompts))
    except VocabularyError as error:
        problems.append(Problem("label_unusable", f"{error}; the label is not queried: give it other words"))
        return None


def _selected_labels(params: ProjectParams, spellings: Mapping[str, str], problems: list[Problem]) -> set[str] | None:
    if params.vocabulary is None:
        return None
    for word in params.vocabulary:
        if word not in spellings:
            detail = f"{word!r} of the parameter vocabulary is not a label of the configuration and is ignored"
            problems.append(Problem("vocabulary_unknown", detail))
    return {spellings[word] for word in params.vocabulary if word in spellings}


def _label_target(
    label: ConfigLabel, config: LabelingConfig, params: ProjectParams, problems: list[Problem]
) -> LabelTarget | None:
    """Return the target of a label, or None if it is a Choice without visible meaning."""
    holders = [control for control in config.controls if label.value in control.labels]
    order = list(Kind)
    with_masks = (control for control in holders if control.kind is not Kind.CHOICES)
    masks = sorted(with_masks, key=lambda control: order.index(control.kind))
    choices = tuple(control for control in holders if control.kind is Kind.CHOICES)
    if not masks and not label.predicted and label.value not in params.prompts:
        has_masks = any(one.kind is not Kind.CHOICES for one in config.controls)
        if has_masks and params.output is not Kind.CHOICES:
            detail = (
                f"choice {label.value!r} is not a label of a mask and is not queried: add predicted_values to query it"
            )
            problems.append(Problem("choice_not_asked", detail))
            return None
        if clean_text(label.value.strip()) in NO_WORDS:
            detail = f"choice {label.value!r} names no visible thing and is not queried, unless it has predicted_values"
            problems.append(Problem("choice_no_word", detail))
            return None
    if params.output is Kind.CHOICES and choices:
        masks = []
    elif params.output is not None:
        masks.sort(key=lambda control: control.kind is not params.output)
    prompts, source = _prompts(label)
    return LabelTarget(label.value, label.shown, prompts, source, tuple(masks), choices)


def _distinct(name: str, names: dict[str, str], problems: list[Problem]) -> bool:
    """Return whether the name differs from the earlier `names` (by case-folded form) in more than case."""
    other = names.get(clean_text(name))
    if other is None:
        names[clean_text(name)] = name
        return True
    detail = f"label {name!r} is the same text as {other!r} to CLIP, so it is not queried; rename it"
    problems.append(Problem("label_indistinct", detail))
    return False


def _report_outputs(targets: Iterable[LabelTarget], params: ProjectParams, problems: list[Problem]) -> None:
    kind = params.output
    if kind is None:
        return
    held = {True: list[str](), False: list[str]()}
    for place in targets:
        kinds = place.choices[:1] if kind is Kind.CHOICES else place.controls[:1]
        held[bool(kinds) and kinds[0].kind is kind].append(place.label)
    if held[False]:
        detail = f"{_listed(held[False])} cannot be shown as {kind}, which no control has for them: others are used"
        problems.append(Problem("output_unavailable", detail))


def _configured_prompts(
    targets: LabelMapping, params: ProjectParams, problems: list[Problem]
) -> dict[str, tuple[str, ...]]:
    given: dict[str, tuple[str, ...]] = {}
    for label, words in params.prompts.items():
        name = targets.find_name(label)
        if name is None:
            detail = f"prompts of {label!r} are ignored: it is not a queried label"
            problems.append(Problem("prompts_unknown", detail))
        elif words:
            given[name] = words
    return given


def _prompts(label: ConfigLabel) -> tuple[tuple[str, ...], PromptSource]:
    """Return the prompts: `predicted_values`, or else the visible value, or else, if that has no letters, the alias."""
    if label.predicted:
        return label.predicted, PromptSource.PREDICTED_VALUES
    if _has_letters(label.alias) and not _has_letters(label.shown):
        return (label.alias,), PromptSource.ALIAS
    return (label.shown,), PromptSource.VALUE


def _has_letters(text: str) -> bool:
    return any(character.isalpha() for character in text)


def _listed(words: Sequence[str], most: int = 5) -> str:
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
