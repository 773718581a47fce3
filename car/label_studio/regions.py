"""Masks as Label Studio regions: brush, bitmask, polygons or a rectangle, and choices for the whole picture.

Geometry is in percent of the upright picture; brush and bitmask have its pixels. What a region looks like on the wire
was measured against Label Studio 1.23; of a bitmask its editor sees nothing but which pixels are opaque.
"""

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import numpy as np
from PIL import Image

from car.label_studio.label_mapping import LabelTarget
from car.label_studio.labeling_config import Control, Kind
from car.polygons import is_simple_polygon, mask_to_polygons
from car.rle import Mask, encode_brush

Region = dict[str, Any]

_SCORE_DIGITS: Final = 6
_PERCENT_DIGITS: Final = 6


@dataclass(frozen=True)
class LabeledMask:
    """A cleaned mask and where it goes."""

    name: str
    """The name under which it was asked for."""
    target: LabelTarget
    score: float
    mask: Mask


def control_of(shown: LabeledMask, *, small: bool = False) -> Control | None:
    """The control that shows a mask: the label's first; one for pixels where a single ring cannot hold it; a bitmask
    instead of a brush with `small`. None: the label is of choices alone.
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
    """The regions of a mask: one, or one a ring where a polygon needs several."""
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
        # The labels of a plain shape are a second entry of the same id, with the shape again.
        named = {"from_name": control.labels_name, "type": "labels", "value": value | {"labels": [shown.target.label]}}
        regions += [region, region | named]
    return regions


def choices_of(found: Iterable[tuple[LabelTarget, float]], image: str, run_key: str) -> list[Region]:
    """The choices that were found: all of them, or the best one where a control takes one alone."""
    best: dict[Control, dict[str, float]] = {}
    for place, score in found:
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
    """The same for the same mask in the same control, so that a prediction sent twice can be recognized."""
    return hashlib.sha256("\n".join((run_key, asked, control, str(number))).encode()).hexdigest()[:10]


def _brush(mask: Mask) -> Sequence[dict[str, Any]]:
    return [{"format": "rle", "rle": encode_brush(mask)}]


def _bitmask(mask: Mask) -> Sequence[dict[str, Any]]:
    out = BytesIO()
    Image.fromarray(mask).save(out, "PNG", transparency=0)  # a bit a pixel; the editor looks at what is opaque
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
