"""Connected pieces of a mask: noise taken out, the piece that somebody pointed at.

Pixels that share a side are one piece; holes are pieces of what is not the mask, which corners join too.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from car.label_studio.prompts import SpatialPrompt
from car.rle import Mask

_WITH_CORNERS: Final = np.ones((3, 3), np.bool_)


def remove_small_components(mask: Mask, min_area: float) -> Mask:
    """The mask without pieces of fewer pixels than `min_area`, and with holes of fewer filled. Where all pieces are so
    small, the largest stays, so that nothing that was found is lost.
    """
    window = bounding_slices(mask)
    if window is None:
        return mask
    cleaned = np.zeros_like(mask)
    cleaned[window] = _filled(_largest_pieces(mask[window], min_area), min_area)
    return cleaned


def select_by_prompt(mask: Mask, prompt: SpatialPrompt) -> Mask:
    """The part of the mask that is meant: cut to the boxes, then pieces under the points, less those under others."""
    height, width = mask.shape
    meant = mask
    if prompt.boxes:
        inside = np.zeros_like(mask)
        for x, y, across, down in prompt.boxes:
            (left, right), (top, bottom) = sorted((x, x + across)), sorted((y, y + down))
            inside[
                _pixel(top, height) : _pixel(bottom, height, up=1), _pixel(left, width) : _pixel(right, width, up=1)
            ] = 1
        meant = mask & inside
    if not (prompt.points or prompt.negative_points):
        return meant
    labels, _ = ndimage.label(meant)
    kept = _under(labels, prompt.points) if prompt.points else set(range(1, int(labels.max(initial=0)) + 1))
    kept -= _under(labels, prompt.negative_points)
    return np.isin(labels, list(kept)) & meant


def _largest_pieces(mask: Mask, min_area: float) -> Mask:
    labels, count = ndimage.label(mask)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    areas[0] = 0
    keep = areas >= min_area
    if not keep.any() or min_area <= 0:
        keep[int(areas.argmax())] = True
    keep[0] = False
    kept: Mask = keep[labels]
    return kept


def _filled(mask: Mask, min_area: float) -> Mask:
    labels, count = ndimage.label(~mask, structure=_WITH_CORNERS)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    fill = areas < min_area
    # What touches the window's edge is no hole: the window is the mask's own box.
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        fill[edge] = False
    fill[0] = False
    filled: Mask = mask | fill[labels]
    return filled


def bounding_slices(mask: Mask) -> tuple[slice, slice] | None:
    """The rows and columns that hold the mask; None where it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _under(labels: NDArray[np.int32], points: tuple[tuple[float, float], ...]) -> set[int]:
    height, width = labels.shape
    found = {int(labels[min(_pixel(y, height), height - 1), min(_pixel(x, width), width - 1)]) for x, y in points}
    return found - {0}


def _pixel(percent: float, side: int, up: int = 0) -> int:
    """The pixel in which a position lies, or with `up` the first one behind it."""
    place = min(max(percent / 100, 0.0), 1.0) * side
    return int(np.ceil(place)) if up else int(place)
