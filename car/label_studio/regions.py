"""Masks as Label Studio regions: brush, bitmask, polygons or rectangle; and choices for the whole image.

Geometry is in percent of the upright image; brush and bitmask have its pixels. The format was recorded from Label
Studio 1.23, whose editor reads only the opacity of a bitmask.
"""

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from car.label_studio.label_mapping import LabelTarget
from car.label_studio.labeling_config import Control, Kind
from car.label_studio.prompts import SpatialPrompt
from car.polygons import is_simple_polygon, mask_to_polygons
from car.rle import Mask, encode_brush

Region = dict[str, Any]

_SCORE_DIGITS: Final = 6
_PERCENT_DIGITS: Final = 6


@dataclass(frozen=True)
class LabeledMask:
    """A cleaned mask with its target."""

    name: str
    """The name of its query."""
    target: LabelTarget
    score: float
    mask: Mask


def control_of(shown: LabeledMask, *, small: bool = False) -> Control | None:
    """Return the control that shows a mask: the label's first one, or one for pixels if a single polygon cannot hold
    it; with `small` a bitmask instead of a brush. None: the label has only choices.
    """
    controls = shown.target.controls
    if not controls:
        return None
    kinds = {one.kind: one for one in reversed(controls)}
    first = controls[0]
    pixels = kinds.get(Kind.BRUSH) or kinds.get(Kind.BITMASK)
    if first.kind is Kind.POLYGON and pixels is not None and not is_simple_polygon(shown.mask):
        first = pixels
    if small and first.kind is Kind.BRUSH:
        first = kinds.get(Kind.BITMASK) or first
    return first


def regions_of(shown: LabeledMask, control: Control, image: str, run_key: str) -> list[Region]:
    """Return the regions of a mask: one, or one per polygon."""
    height, width = shown.mask.shape
    regions = []
    for number, value in enumerate(_VALUES[control.kind](shown.mask)):
        region = {
            "id": region_id(run_key, shown.name, control.name, number),
            "from_name": control.name,
            "to_name": image,
            "type": str(control.kind) + ("" if control.labels_name else "labels"),
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "origin": "prediction",
            "score": round(shown.score, _SCORE_DIGITS),
            "value": value,
        }
        if control.labels_name is None:
            regions.append(region | {"value": value | {f"{control.kind}labels": [shown.target.label]}})
            continue
        # The labels of a plain shape are a second entry of the same id, which repeats the shape.
        named = {"from_name": control.labels_name, "type": "labels", "value": value | {"labels": [shown.target.label]}}
        regions += [region, region | named]
    return regions


def choices_of(masks: Iterable[tuple[LabelTarget, float]], image: str, run_key: str) -> list[Region]:
    """Return the choices that were found: all, or the best one if a control allows only one."""
    best: dict[Control, dict[str, float]] = {}
    for place, score in masks:
        for control in place.choices:
            scores = best.setdefault(control, {})
            scores[place.label] = max(score, scores.get(place.label, 0.0))
    regions = []
    for control, scores in best.items():
        chosen = [value for value in control.labels if value in scores]
        if control.single:
            chosen = [max(chosen, key=lambda value: scores[value])]
        regions.append(
            {
                "id": region_id(run_key, "", control.name, 0),
                "from_name": control.name,
                "to_name": image,
                "type": "choices",
                "origin": "prediction",
                "score": round(max(scores[value] for value in chosen), _SCORE_DIGITS),
                "value": {"choices": chosen},
            }
        )
    return regions


def region_id(run_key: str, asked: str, control: str, number: int) -> str:
    """Return an id, equal for an equal mask in the same control, so that a duplicate prediction is recognized."""
    return hashlib.sha256("\n".join((run_key, asked, control, str(number))).encode()).hexdigest()[:10]


def _brush(mask: Mask) -> Sequence[dict[str, Any]]:
    return [{"format": "rle", "rle": encode_brush(mask)}]


def _bitmask(mask: Mask) -> Sequence[dict[str, Any]]:
    out = BytesIO()
    Image.fromarray(mask).save(out, "PNG", transparency=0)  # one bit per pixel; the editor reads the opacity
    return [{"format": "png", "imageDataURL": f"data:image/png;base64,{b64encode(out.getvalue()).decode()}"}]


def _polygons(mask: Mask) -> Sequence[dict[str, Any]]:
    return [{"points": ring.tolist(), "closed": True} for ring in mask_to_polygons(mask)]


def _rectangle(mask: Mask) -> Sequence[dict[str, Any]]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = mask.shape
    left, right, top, bottom = columns[0] / width, (columns[-1] + 1) / width, rows[0] / height, (rows[-1] + 1) / height
    sides = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    return [
        {key: min(round(float(100 * side), _PERCENT_DIGITS), 100.0) for key, side in sides.items()} | {"rotation": 0}
    ]


_VALUES: Final = {
    Kind.BRUSH: _brush,
    Kind.BITMASK: _bitmask,
    Kind.POLYGON: _polygons,
    Kind.RECTANGLE: _rectangle,
}


def select_by_prompt(mask: Mask, prompt: SpatialPrompt) -> Mask:
    """Return the part of the mask that an annotator pointed at: within the boxes, the components under the points
    and not under the negative points.
    """
    height, width = mask.shape
    selected = mask
    if prompt.boxes:
        in_boxes = np.zeros_like(mask)
        for x, y, across, down in prompt.boxes:
            (left, right), (top, bottom) = sorted((x, x + across)), sorted((y, y + down))
            in_boxes[
                _pixel(top, height) : _pixel(bottom, height, up=1), _pixel(left, width) : _pixel(right, width, up=1)
            ] = 1
        selected = mask & in_boxes
    if not (prompt.points or prompt.negative_points):
        return selected
    labels, _ = ndimage.label(selected)
    chosen = _under(labels, prompt.points) if prompt.points else set(range(1, int(labels.max(initial=0)) + 1))
    chosen -= _under(labels, prompt.negative_points)
    return np.isin(labels, list(chosen)) & selected


def _under(labels: NDArray[np.int32], points: tuple[tuple[float, float], ...]) -> set[int]:
    height, width = labels.shape
    at_points = {int(labels[min(_pixel(y, height), height - 1), min(_pixel(x, width), width - 1)]) for x, y in points}
    return at_points - {0}


def _pixel(percent: float, side: int, up: int = 0) -> int:
    """Return the pixel that contains a position in percent, or with `up` the first pixel after it."""
    position = min(max(percent / 100, 0.0), 1.0) * side
    return int(np.ceil(position)) if up else int(position)
