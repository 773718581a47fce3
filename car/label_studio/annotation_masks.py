"""Masks of the regions of an annotation or prediction, decoded alike so that both can be compared."""

from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Final

import numpy as np
from PIL import Image

from car.errors import CarError
from car.polygons import polygons_to_mask
from car.rle import PAINTED, Mask, decode_brush

MAX_PIXELS: Final = 100_000_000
"""Bound of a region's image, whose size the sender claims and which is allocated in memory."""
_PNG: Final = "data:image/png;base64,"
_ELLIPSE_CORNERS: Final = 128
_UNREADABLE: Final = (CarError, KeyError, TypeError, ValueError, OSError, Image.DecompressionBombError)


class AnnotationInvalidError(CarError):
    """A region does not have Label Studio's format."""

    code = "annotation_invalid"


@dataclass(frozen=True)
class AnnotationMasks:
    """The masks and choices of a result's regions, by label."""

    masks: dict[str, Mask] = field(default_factory=dict)
    """The union of each label's regions."""
    choices: set[str] = field(default_factory=set)
    """Choices for the whole image."""


def decode_annotation(result: Iterable[Any], width: int, height: int) -> AnnotationMasks:
    """Decode brushes, bitmasks, polygons, rectangles and ellipses into masks of the image's size. Other regions have no
    pixels and are ignored.

    Raises:
        AnnotationInvalidError: a region cannot be decoded.

    """
    found = AnnotationMasks()
    for region in result:
        value = region.get("value") if isinstance(region, Mapping) else None
        kind = str(region.get("type", "")).lower() if isinstance(region, Mapping) else ""
        if not isinstance(value, Mapping):
            continue
        labels = value.get(kind) if kind.endswith("labels") or kind == "choices" else None
        names = [one for one in labels if isinstance(one, str)] if isinstance(labels, list) else []
        if kind == "choices":
            found.choices.update(names)
        elif names:
            mask = _mask(region, value, width, height)
            if mask is not None:
                for name in names:
                    found.masks[name] = found.masks[name] | mask if name in found.masks else mask
    return found


def _mask(region: Mapping[str, Any], value: Mapping[str, Any], width: int, height: int) -> Mask | None:
    try:
        if "rle" in value:
            return _scaled(_brush(region, value["rle"]), width, height)
        if "imageDataURL" in value:
            return _scaled(_bitmask(value["imageDataURL"]), width, height)
        ring = _polygon_points(value, width, height)
    except _UNREADABLE as error:
        raise AnnotationInvalidError(
            f"region {str(region.get('id'))[:40]!r} of type {str(region.get('type'))[:40]!r} is not in Label "
            f"Studio's format ({str(error)[:100]}); draw it again"
        ) from None
    return None if ring is None else polygons_to_mask([ring], height, width)


def _brush(region: Mapping[str, Any], rle: Sequence[int]) -> Mask:
    width, height = region["original_width"], region["original_height"]
    _check(width, height)
    return decode_brush(rle, height, width)


def _bitmask(url: str) -> Mask:
    if not url.startswith(_PNG):
        raise ValueError("its image is not a PNG")
    with Image.open(BytesIO(b64decode(url[len(_PNG) :], validate=True)), formats=["PNG"]) as image:
        _check(*image.size)
        return np.asarray(image.convert("RGBA"))[..., 3] >= PAINTED


def _polygon_points(value: Mapping[str, Any], width: int, height: int) -> Any:  # noqa: ANN401 - an array or None
    """Return the corners in pixels, or None for a shape without area."""
    scale = np.array([width, height]) / 100
    if "points" in value:
        return np.asarray(value["points"], np.float64).reshape(-1, 2) * scale
    if "radiusX" in value:
        turn = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)
        radii = np.array([float(value["radiusX"]), float(value["radiusY"])]) * scale
        around = np.stack([np.cos(turn), np.sin(turn)], -1) * radii
    elif "height" in value:
        sides = np.array([float(value["width"]), float(value["height"])]) * scale
        # Label Studio turns a rectangle about its top left corner.
        around = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * sides
    else:
        return None
    angle = np.deg2rad(float(value.get("rotation") or 0))
    turned = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    ring = around @ turned + np.array([float(value["x"]), float(value["y"])]) * scale
    if not np.isfinite(ring).all():
        raise ValueError("a number is not finite")
    return ring


def _check(width: object, height: object) -> None:
    if not (isinstance(width, int) and isinstance(height, int) and 0 < width * height <= MAX_PIXELS):
        raise ValueError(f"its size {width!r} x {height!r} is not valid")


def _scaled(mask: Mask, width: int, height: int) -> Mask:
    """Resize a mask: a region has the size of the image that the editor showed."""
    if mask.shape == (height, width):
        return mask
    rows = (np.arange(height) + 0.5) * mask.shape[0] / height
    columns = (np.arange(width) + 0.5) * mask.shape[1] / width
    scaled: Mask = mask[rows.astype(np.int64)][:, columns.astype(np.int64)]
    return scaled
