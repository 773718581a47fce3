"""Predictions for Label Studio: regions are built from masks, bounded in size and validated."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from car.connected_components import remove_small_components
from car.label_studio.labeling_config import Kind
from car.label_studio.prediction_validation import PredictionInvalidError, validate_prediction
from car.label_studio.project_config import ProjectConfig
from car.label_studio.prompts import SpatialPrompt
from car.label_studio.regions import LabeledMask, Region, choices_of, control_of, regions_of, select_by_prompt
from car.rle import decode_coco
from car.stored_masks import StoredMask, StoredMasks

__all__ = ["PredictionInvalidError", "PredictionPayload", "StoredMask", "StoredMasks", "build_prediction"]

MAX_BYTES: Final = 4 * 1024 * 1024
"""Bytes of a prediction as JSON, which an annotator's browser loads with its task."""
MAX_SENT_BYTES: Final = 64 * 2**20
"""The largest prediction that is sent; Label Studio accepts 250 MiB."""
_COARSER: Final = 16
"""Factor on min_area if a prediction is too large."""
_SCORE_DIGITS: Final = 6


@dataclass(frozen=True)
class PredictionPayload:
    """A prediction that is ready to be sent."""

    text: str
    """JSON {"model_version", "score", "result"}."""
    score: float
    """The mean score of its masks, by which Label Studio can sort tasks; 0 without masks."""
    notes: tuple[str, ...]
    """What is omitted, or shown differently from the configuration, and why."""


@dataclass(frozen=True)
class RegionFidelity:
    """How much detail a prediction keeps."""

    noise: float = 1.0
    small: bool = False
    text: str = ""


_FORMS: Final = (
    RegionFidelity(),
    RegionFidelity(noise=_COARSER, text=f"components up to {_COARSER} times larger than usual were removed as noise"),
    RegionFidelity(noise=_COARSER, small=True, text="bitmasks were used instead of brushes if the label has both"),
)


def build_prediction(
    label_config: str,
    config: ProjectConfig,
    masks: StoredMasks,
    *,
    run_key: str,
    model_version: str,
    only: Sequence[str] | None = None,
    within: SpatialPrompt | None = None,
    max_bytes: int = MAX_BYTES,
) -> PredictionPayload:
    """Build the prediction of a result. Equal arguments give equal text.

    `only` and `within` restrict it to the labels and place of a prompt; it then has no choices for the whole image.

    Raises:
        PredictionInvalidError: Label Studio's validation refuses it.

    """
    made = build_regions(config, masks, run_key=run_key, only=only, within=within, max_bytes=max_bytes)
    prediction = {"model_version": model_version, "score": made.score, "result": list(made.regions)}
    validate_prediction(label_config, prediction)
    return PredictionPayload(json.dumps(prediction, separators=(",", ":")), made.score, made.notes)


@dataclass(frozen=True)
class DraftPrediction:
    """A prediction before validation."""

    regions: tuple[Region, ...]
    score: float
    notes: tuple[str, ...]


def build_regions(
    config: ProjectConfig,
    masks: StoredMasks,
    *,
    run_key: str,
    only: Sequence[str] | None = None,
    within: SpatialPrompt | None = None,
    max_bytes: int = MAX_BYTES,
) -> DraftPrediction:
    """Return the regions of a prediction, as `build_prediction` sends them."""
    notes: list[str] = []
    selected = list(_selected_masks(config, masks, only, notes))
    groups = _RegionBuilder(config, masks, run_key, within).bounded(selected, max_bytes, notes)
    notes += _model_data(config, groups)
    result = [region for _, regions in groups for region in regions]
    kept = [mask for mask, _ in groups]
    if only is None and within is None:
        placed = [
            (place, mask.score) for mask in selected if (place := config.mapping.target_of(mask.label)) is not None
        ]
        result += choices_of(placed, config.config.image.name, run_key)
        kept = kept or [mask for mask in selected if result]
    score = round(sum(mask.score for mask in kept) / len(kept), _SCORE_DIGITS) if kept else 0.0
    return DraftPrediction(tuple(result), score, tuple(notes))


def _selected_masks(
    config: ProjectConfig, masks: StoredMasks, only: Sequence[str] | None, notes: list[str]
) -> Iterator[StoredMask]:
    for mask in masks.masks:
        owner = config.mapping.resolve(mask.label)
        if owner is None:
            notes.append(f"the mask of {mask.label!r} is omitted: it belongs to no label of the configuration")
        elif only is None or owner in only or mask.label in only:
            yield mask


def _model_data(config: ProjectConfig, groups: list[tuple[StoredMask, list[Region]]]) -> Iterator[str]:
    """Report masks that one polygon cannot hold and another control shows."""
    for mask, regions in groups:
        place, shown = config.mapping.target_of(mask.label), regions[0]["type"]
        polygon = place is not None and place.controls[0].kind is Kind.POLYGON
        if polygon and not shown.startswith(Kind.POLYGON):
            yield f"the mask of {mask.label!r} is shown by {regions[0]['from_name']!r}, which can hold it"


@dataclass(frozen=True)
class _RegionBuilder:
    config: ProjectConfig
    masks: StoredMasks
    run_key: str
    within: SpatialPrompt | None

    def bounded(
        self, masks: list[StoredMask], max_bytes: int, notes: list[str]
    ) -> list[tuple[StoredMask, list[Region]]]:
        """Return the regions of each mask in the first form that fits, or else without the masks of lowest score."""
        groups: list[tuple[StoredMask, list[Region]]] = []
        for form in _FORMS:
            groups = [(mask, regions) for mask in masks if (regions := self._regions(mask, form))]
            sizes = [len(json.dumps(regions, separators=(",", ":"))) for _, regions in groups]
            if form.text:
                notes.append(f"the prediction was larger than {max_bytes} bytes: {form.text}")
            if sum(sizes) <= max_bytes:
                return groups
        left = sum(sizes)
        for index in sorted(range(len(groups)), key=lambda position: groups[position][0].score):
            if left <= max_bytes:
                break
            left -= sizes[index]
            mask, groups[index] = groups[index][0], (groups[index][0], [])
            notes.append(f"the mask of {mask.label!r} is omitted: the prediction was larger than {max_bytes} bytes")
        return [group for group in groups if group[1]]

    def _regions(self, mask: StoredMask, form: RegionFidelity) -> list[Region]:
        place = self.config.mapping.target_of(mask.label)
        if place is None or not place.controls:
            return []
        pixels = decode_coco(mask.rle)
        if self.within is not None:
            pixels = select_by_prompt(pixels, self.within)
        pixels = remove_small_components(pixels, self._min_area() * form.noise)
        if not pixels.any():
            return []
        shown = LabeledMask(mask.label, place, mask.score, pixels)
        control = control_of(shown, small=form.small)
        return regions_of(shown, control, self.config.config.image.name, self.run_key) if control else []

    def _min_area(self) -> float:
        given = self.config.params.min_area
        return given * self.masks.width * self.masks.height if given < 1 else given


def render_prediction(
    masks: bytes,
    label_config: str,
    config: ProjectConfig,
    *,
    run_key: str,
    model_version: str,
    **parts: Any,  # noqa: ANN401 - `only` and `within` of build_prediction
) -> PredictionPayload:
    """Render the prediction of a result from the bytes of its masks.json.

    Raises:
        PredictionInvalidError: Label Studio's validation would refuse it, or it is too large.

    """
    stored = StoredMasks.from_document(json.loads(masks))
    document = build_prediction(label_config, config, stored, run_key=run_key, model_version=model_version, **parts)
    if len(document.text) > MAX_SENT_BYTES:
        raise PredictionInvalidError(
            f"the prediction has {len(document.text):,} bytes, above the {MAX_SENT_BYTES:,} allowed; use polygons "
            "instead of brushes, or fewer labels"
        )
    return document
