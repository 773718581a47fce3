"""Connected components of a mask: 4-connected for the mask, 8-connected for its holes."""

from typing import Final

import numpy as np

from car.rle import Mask

_WITH_CORNERS: Final = np.ones((3, 3), np.bool_)


def remove_small_components(mask: Mask, min_area: float) -> Mask:
    """Return the mask without components, and without holes, of fewer than `min_area` pixels. If every component is
    smaller, the largest one stays, so that no label is lost.
    """
    window = bounding_slices(mask)
    if window is None:
        return mask
    cleaned = np.zeros_like(mask)
    cleaned[window] = _without_small_holes(_large_components(mask[window], min_area), min_area)
    return cleaned


def _large_components(mask: Mask, min_area: float) -> Mask:
    from scipy import ndimage  # noqa: PLC0415 - takes a second, and few processes find components

    labels, count = ndimage.label(mask)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    areas[0] = 0
    keep = areas >= min_area
    if not keep.any() or min_area <= 0:
        keep[int(areas.argmax())] = True
    keep[0] = False
    large: Mask = keep[labels]
    return large


def _without_small_holes(mask: Mask, min_area: float) -> Mask:
    from scipy import ndimage  # noqa: PLC0415 - as above

    labels, count = ndimage.label(~mask, structure=_WITH_CORNERS)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    fill = areas < min_area
    # A component that touches the edge is background, not a hole: the window is the mask's bounding box.
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        fill[edge] = False
    fill[0] = False
    filled: Mask = mask | fill[labels]
    return filled


def bounding_slices(mask: Mask) -> tuple[slice, slice] | None:
    """Return the rows and columns of the mask's bounding box, or None if the mask is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
