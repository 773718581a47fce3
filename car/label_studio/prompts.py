"""Prompts of annotators in Label Studio's editor, and words of tasks.

A TextArea has one prompt per line: `car: sedan, taxi` queries the label by other words, `car, dog` queries only these
labels. Any other words belong to the project's label if it has only one. A click, box or stroke of a smart tool queries
its label at that place.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from car.clip_tokenizer import clean_text
from car.errors import CarError, RleError, VocabularyError
from car.label_studio.label_mapping import LabelMapping
from car.vocabulary import Label, Vocabulary


class PromptInvalidError(CarError):
    """A prompt or click in Label Studio's editor that names nothing to segment."""

    code = "prompt_invalid"


_STROKE_POINTS: Final = 64
_MAX_STROKE_PIXELS: Final = 100_000_000

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class SpatialPrompt:
    """A place in an image, in percent of its sides."""

    points: Points = ()
    """x, y: the components under them are kept."""
    negative_points: Points = ()
    """x, y: the components under them are removed."""
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    """x, y, width, height: masks are clipped to them."""


@dataclass(frozen=True)
class Prompt:
    """The prompt of an annotator for one image."""

    vocabulary: Vocabulary | None
    """None: the project's, or the task's own."""
    labels: tuple[str, ...] | None
    """The requested labels; None: all."""
    spatial: SpatialPrompt | None


@dataclass
class _PromptFields:
    """The texts, labels and places of a context's regions."""

    texts: list[str] = field(default_factory=list)
    labels: dict[str, None] = field(default_factory=dict)
    points: list[tuple[float, float]] = field(default_factory=list)
    others: list[tuple[float, float]] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)

    @property
    def within(self) -> SpatialPrompt | None:
        if not (self.points or self.others or self.boxes):
            return None
        return SpatialPrompt(tuple(self.points), tuple(self.others), tuple(self.boxes))


def read_prompt(context: Mapping[str, Any], targets: LabelMapping, vocabulary: Vocabulary) -> Prompt:
    """Parse `params.context`; `vocabulary` has the background, the templates and the prompts of labels.

    Raises:
        PromptInvalidError: it is empty, or names no label of the project.

    """
    asked = _read(context)
    if asked.texts:
        try:
            labels = [label for text in asked.texts for label in _questions(text, targets, vocabulary)]
            words = with_labels(vocabulary, labels)
        except VocabularyError as error:
            raise PromptInvalidError(f"the prompt is not valid: {error}") from None
        return Prompt(words, None, asked.within)
    if asked.within is None:
        raise PromptInvalidError("the prompt is empty: write a text, or use a smart tool that has a label")
    only = [name for value in asked.labels if (name := targets.find_name(value)) is not None]
    if asked.labels and not only:
        raise PromptInvalidError(
            f"label {next(iter(asked.labels))!r} of the smart tool has no control for masks; "
            f"{_choose(targets)}, and give the tool the same labels"
        )
    return Prompt(None, tuple(only) or None, asked.within)


def words_of_task(data: object, key: str, targets: LabelMapping, vocabulary: Vocabulary) -> Vocabulary:
    """Return the vocabulary of a task with its own words: a text (one expression per line), a list of expressions, or
    {label: expressions}. Each expression is one query.

    Raises:
        VocabularyError: there are no words, or words that belong to no label.

    """
    labels: list[Label] = []
    for name, words in _expressions(data, targets, key):
        owner = name or targets.find_name(words) or targets.single()
        if owner is None:
            raise VocabularyError(
                f"{words!r} in {key!r} of the task is not a label of the project, which its regions need: "
                f'{_choose(targets)} and write {{"{next(iter(targets.by_name))}": {words!r}}}'
            )
        labels.append(Label(_asked_as(owner, words, targets), (words,)))
    if not labels:
        raise VocabularyError(f"{key!r} of the task is empty: add the words to query")
    return with_labels(vocabulary, labels)


def with_labels(vocabulary: Vocabulary, labels: Iterable[Label]) -> Vocabulary:
    """Return the vocabulary with other labels, and with its background without them."""
    unique = {clean_text(label.name): label for label in reversed(list(labels))}
    chosen = tuple(reversed(unique.values()))
    return Vocabulary(
        labels=chosen,
        background=without(vocabulary.background, chosen),
        cam_template=vocabulary.cam_template,
        classifier_templates=vocabulary.classifier_templates,
    )


def without(background: Sequence[str], labels: Iterable[Label]) -> tuple[str, ...]:
    """Return the background words that are not labels: a word would compete with itself."""
    asked = {clean_text(word) for label in labels for word in (label.name, *label.prompts)}
    return tuple(word for word in background if clean_text(word) not in asked)


def _read(context: Mapping[str, Any]) -> _PromptFields:
    asked = _PromptFields()
    located: set[str] = set()
    regions = context.get("result")
    for region in regions if isinstance(regions, list) else ():
        value = region.get("value") if isinstance(region, Mapping) else None
        if not isinstance(value, Mapping):
            continue
        kind = str(region.get("type", ""))
        if kind == "textarea":
            texts = value.get("text")
            asked.texts += [one for one in (texts if isinstance(texts, list) else [texts]) if isinstance(one, str)]
            continue
        labels = value.get(kind) if kind.endswith("labels") else None
        asked.labels |= dict.fromkeys(one for one in labels if isinstance(one, str)) if isinstance(labels, list) else {}
        # With a separate Labels control a shape comes twice under one id: once more as `labels`.
        region_id = region.get("id")
        if isinstance(region_id, str):
            if region_id in located:
                continue
            located.add(region_id)
        _locate(region, kind, value, asked)
    asked.texts = [line.strip() for text in asked.texts for line in text.splitlines() if line.strip()]
    return asked


def _locate(region: Mapping[str, Any], kind: str, value: Mapping[str, Any], asked: _PromptFields) -> None:
    """Add the place of a region. Its fields tell its shape, because a region of type `labels` can have any."""
    meant = region.get("is_positive", value.get("is_positive", True)) in (True, None, 1)
    try:
        if "rle" in value:
            (asked.points if meant else asked.others).extend(_stroke(region, value["rle"]))
        elif "points" in value:
            asked.boxes.append(_bounding_box((_number(x), _number(y)) for x, y in value["points"]))
        elif "radiusX" in value:
            across, down = _number(value["radiusX"]), _number(value["radiusY"])
            asked.boxes.append((_number(value["x"]) - across, _number(value["y"]) - down, 2 * across, 2 * down))
        elif "height" in value:
            asked.boxes.append(_rectangle(region, value))
        else:
            (asked.points if meant else asked.others).append((_number(value["x"]), _number(value["y"])))
    except (KeyError, TypeError, ValueError, RleError):
        raise PromptInvalidError(f"a {kind or 'region'} has no place: use a keypoint, a rectangle or a brush") from None


def _rectangle(region: Mapping[str, Any], value: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Return a rectangle, or the bounding box of a rotated one (three-point tool)."""
    x, y, across, down = (_number(value[name]) for name in ("x", "y", "width", "height"))
    angle = math.radians(_number(value.get("rotation") or 0))
    if not angle:
        return x, y, across, down
    # Rotated clockwise around its upper left corner, in pixels.
    width, height = _number(region["original_width"]), _number(region["original_height"])
    if width <= 0 or height <= 0:
        raise ValueError(width, height)
    cosine, sine = math.cos(angle), math.sin(angle)
    corners = [(0.0, 0.0), (across, 0.0), (0.0, down), (across, down)]
    return _bounding_box(
        (x + dx * cosine - dy * sine * height / width, y + dx * sine * width / height + dy * cosine)
        for dx, dy in corners
    )


def _bounding_box(points: Iterable[tuple[float, float]]) -> tuple[float, float, float, float]:
    across_all, down_all = zip(*points, strict=True)
    left, top = min(across_all), min(down_all)
    return left, top, max(across_all) - left, max(down_all) - top


def _number(value: Any) -> float:  # noqa: ANN401 - whatever the request holds
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(number)
    return number


def _stroke(region: Mapping[str, Any], rle: Sequence[int]) -> list[tuple[float, float]]:
    """Return points of a brush stroke, including the first and the last."""
    import numpy as np  # noqa: PLC0415 - most of who imports this sees no pixels

    from car.rle import decode_brush  # noqa: PLC0415

    width, height = region["original_width"], region["original_height"]
    if not 0 < width * height <= _MAX_STROKE_PIXELS:
        raise ValueError(width, height)
    rows, columns = np.nonzero(decode_brush(rle, height, width))
    chosen = np.unique(np.linspace(0, rows.size - 1, min(rows.size, _STROKE_POINTS)).astype(int))
    places = zip(columns[chosen].tolist(), rows[chosen].tolist(), strict=True)
    return [((x + 0.5) * 100 / width, (y + 0.5) * 100 / height) for x, y in places]


def _questions(text: str, targets: LabelMapping, vocabulary: Vocabulary) -> list[Label]:
    """Return the labels that a line of a prompt queries."""
    before, colon, after = text.partition(":")
    words = tuple(part.strip() for part in (after if colon else text).split(",") if part.strip())
    name = targets.find_name(before) if colon else None
    if name is not None and words:
        return [Label(name, words)]
    if not colon and words and all(targets.find_name(word) for word in words):
        known = {label.name: label for label in vocabulary.labels}
        names = dict.fromkeys(targets.find_name(word) or word for word in words)
        return [known.get(one) or Label(one, targets.by_name[one].prompts) for one in names]
    owner = targets.single()
    if owner is None or not words or colon:
        raise PromptInvalidError(f"{text!r} is not a label: {_choose(targets)}, and write `label: words`")
    return [Label(_asked_as(owner, word, targets), (word,)) for word in words]


def _expressions(given: object, targets: LabelMapping, key: str) -> list[tuple[str | None, str]]:
    """Return (label or None, words) of every expression."""
    if isinstance(given, str):
        return [_split(line.strip(), targets) for line in given.splitlines() if line.strip()]
    if isinstance(given, Mapping):
        found: list[tuple[str | None, str]] = []
        for label, words in given.items():
            name = targets.find_name(str(label))
            if name is None:
                raise VocabularyError(
                    f"{label!r} in {key!r} of the task is no label of the project: {_choose(targets)}"
                )
            each = [words] if isinstance(words, str) else words
            found += [(name, one.strip()) for one in _texts(each, key) if one.strip()]
        return found
    return [_split(one.strip(), targets) for one in _texts(given, key) if one.strip()]


def _texts(given: object, key: str) -> list[str]:
    if isinstance(given, list) and all(isinstance(one, str) for one in given):
        return given
    raise VocabularyError(f"{key!r} of the task has no words: it must be a text, a list of texts or {{label: texts}}")


def _split(words: str, targets: LabelMapping) -> tuple[str | None, str]:
    before, colon, after = words.partition(":")
    name = targets.find_name(before) if colon and after.strip() else None
    return (name, after.strip()) if name else (None, words)


def _asked_as(owner: str, words: str, targets: LabelMapping) -> str:
    """Return the name of a query, from which `LabelMapping.resolve` finds the label."""
    if targets.find_name(words) == owner:
        return owner
    return words if targets.single() else f"{owner}: {words}"


def _choose(targets: LabelMapping) -> str:
    names = list(targets.by_name)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""  # noqa: PLR2004
    return f"choose from {', '.join(names[:5])}{more}"
