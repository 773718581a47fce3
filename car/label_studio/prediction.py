"""A result as the prediction that Label Studio stores: regions made, bounded in size, validated."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from car.connected_components import remove_small_components, select_by_prompt
from car.label_studio.labeling_config import Kind
from car.label_studio.prediction_validation import PredictionInvalidError, validate_prediction
from car.label_studio.project_config import ProjectConfig
from car.label_studio.prompts import SpatialPrompt
from car.label_studio.regions import LabeledMask, Region, choices_of, control_of, regions_of
from car.rle import decode_coco
from car.stored_masks import StoredMask, StoredMasks

__all__ = ["PredictionInvalidError", "PredictionPayload", "StoredMask", "StoredMasks", "build_prediction"]

MAX_BYTES: Final = 4 * 1024 * 1024
"""Of a prediction as JSON: an annotator's browser loads it with its task, beside the picture."""
_COARSER: Final = 16
"""By how much more is noise where a prediction is too large."""
_SCORE_DIGITS: Final = 6


@dataclass(frozen=True)
class PredictionPayload:
    """A prediction, ready to be sent."""

    text: str
    """JSON {"model_version", "score", "result"}."""
    score: float
    """The mean of its masks' scores, by which Label Studio can sort tasks; 0 where nothing was found."""
    notes: tuple[str, ...]
    """What is shown otherwise than the configuration asks, or left out, and why."""


@dataclass(frozen=True)
class RegionFidelity:
    """How much is spent on a prediction."""

    noise: float = 1.0
    small: bool = False
    says: str = ""


_FORMS: Final = (
    RegionFidelity(),
    RegionFidelity(noise=_COARSER, says=f"pieces up to {_COARSER} times larger than usual were taken for noise"),
    RegionFidelity(
        noise=_COARSER, small=True, says="bitmasks were used instead of brushes where there are such controls"
    ),
)


def build_prediction(
    label_config: str,
    plan: ProjectConfig,
    found: StoredMasks,
    *,
    run_key: str,
    model_version: str,
    only: Sequence[str] | None = None,
    within: SpatialPrompt | None = None,
    max_bytes: int = MAX_BYTES,
) -> PredictionPayload:
    """The prediction of a result. Equal arguments give equal text.

    `only` and `within` are those of a prompt: such an answer has masks alone, no choices for the whole picture.

    Raises:
        PredictionInvalid: Label Studio's validation refuses it.

    """
    made = build_regions(plan, found, run_key=run_key, only=only, within=within, max_bytes=max_bytes)
    prediction = {"model_version": model_version, "score": made.score, "result": list(made.regions)}
    validate_prediction(label_config, prediction)
    return PredictionPayload(json.dumps(prediction, separators=(",", ":")), made.score, made.notes)


@dataclass(frozen=True)
class DraftPrediction:
    """A prediction before it is checked."""

    regions: tuple[Region, ...]
    score: float
    notes: tuple[str, ...]


def build_regions(
    plan: ProjectConfig,
    found: StoredMasks,
    *,
    run_key: str,
    only: Sequence[str] | None = None,
    within: SpatialPrompt | None = None,
    max_bytes: int = MAX_BYTES,
) -> DraftPrediction:
    """The regions of a prediction, as `prediction_document` has them."""
    notes: list[str] = []
    masks = list(_wanted(plan, found, only, notes))
    making = _Making(plan, found, run_key, within)
    groups = making.bounded(masks, max_bytes, notes)
    notes += _told(plan, groups)
    result = [region for _, regions in groups for region in regions]
    kept = [mask for mask, _ in groups]
    if only is None and within is None:
        placed = [(place, mask.score) for mask in masks if (place := plan.mapping.target_of(mask.label)) is not None]
        result += choices_of(placed, plan.config.image.name, run_key)
        kept = kept or [mask for mask in masks if result]
    score = round(sum(mask.score for mask in kept) / len(kept), _SCORE_DIGITS) if kept else 0.0
    return DraftPrediction(tuple(result), score, tuple(notes))


def _wanted(
    plan: ProjectConfig, found: StoredMasks, only: Sequence[str] | None, notes: list[str]
) -> Iterator[StoredMask]:
    for mask in found.masks:
        owner = plan.mapping.resolve(mask.label)
        if owner is None:
            notes.append(f"the mask of {mask.label!r} is left out: no label of the configuration is its own")
        elif only is None or owner in only or mask.label in only:
            yield mask


def _told(plan: ProjectConfig, groups: list[tuple[StoredMask, list[Region]]]) -> Iterator[str]:
    """Masks that no single ring holds, where the label has a better control."""
    for mask, regions in groups:
        place, shown = plan.mapping.target_of(mask.label), regions[0]["type"]
        polygon = place is not None and place.controls[0].kind is Kind.POLYGON
        if polygon and not shown.startswith(Kind.POLYGON):
            yield f"the mask of {mask.label!r} is shown by {regions[0]['from_name']!r}, which can hold it"


@dataclass(frozen=True)
class _Making:
    plan: ProjectConfig
    found: StoredMasks
    run_key: str
    within: SpatialPrompt | None

    def bounded(
        self, masks: list[StoredMask], max_bytes: int, notes: list[str]
    ) -> list[tuple[StoredMask, list[Region]]]:
        """The regions of each mask, in the first form that is small enough; else without the weakest masks."""
        groups: list[tuple[StoredMask, list[Region]]] = []
        for form in _FORMS:
            groups = [(mask, regions) for mask in masks if (regions := self._regions(mask, form))]
            sizes = [len(json.dumps(regions, separators=(",", ":"))) for _, regions in groups]
            if form.says:
                notes.append(f"the prediction was larger than {max_bytes} bytes: {form.says}")
            if sum(sizes) <= max_bytes:
                return groups
        left = sum(sizes)
        for index in sorted(range(len(groups)), key=lambda one: groups[one][0].score):
            if left <= max_bytes:
                break
            left -= sizes[index]
            mask, groups[index] = groups[index][0], (groups[index][0], [])
            notes.append(f"the mask of {mask.label!r} is left out: the prediction was larger than {max_bytes} bytes")
        return [group for group in groups if group[1]]

    def _regions(self, found: StoredMask, form: RegionFidelity) -> list[Region]:
        place = self.plan.mapping.target_of(found.label)
        if place is None or not place.controls:
            return []
        mask = decode_coco(found.rle)
        if self.within is not None:
            mask = select_by_prompt(mask, self.within)
        mask = remove_small_components(mask, self._min_area() * form.noise)
        if not mask.any():
            return []
        shown = LabeledMask(found.label, place, found.score, mask)
        control = control_of(shown, small=form.small)
        return regions_of(shown, control, self.plan.config.image.name, self.run_key) if control else []

    def _min_area(self) -> float:
        given = self.plan.params.min_area
        return given * self.found.width * self.found.height if given < 1 else given
