"""Outlines of masks as rings of points, and rings as masks.

Coordinates are pixels from the picture's top left corner; a pixel is a unit square, so the outline of a mask runs along
the sides of its pixels and is exact. A ring encloses the pixels whose centres lie in it.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import shapely
from numpy.typing import NDArray

from car.connected_components import bounding_slices
from car.rle import Mask

MIN_POLYGON_IOU: Final = 0.98
"""Least IoU of simplified rings with their mask."""
_TOLERANCES: Final = tuple(0.5 * 2 ** (step / 2) for step in range(15))
"""Pixels by which a simplified ring may leave the exact one: 0.5 to 64."""
_AREA: Final = 0.05
"""Most by which the area of rings may differ from that of their mask."""
_LEAST_POINTS: Final = 3
_TIE: Final = 0.001
_HAIR: Final = 0.0137
"""Pixels; no simple fraction, so that moved lines meet no centre either."""

Ring = NDArray[np.float64]
"""(n, 2): x, y; the last point joins the first."""


def mask_to_polygons(mask: Mask, *, digits: int = 4) -> list[Ring]:
    """Rings in percent of the picture's sides, rounded to `digits`, whose IoU with the mask is at least GUARD, taken
    together. Each is as simple as that allows. Pieces have rings of their own; one with holes is cut into some without.
    """
    window = bounding_slices(mask)
    if window is None:
        return []
    scale = np.array(mask.shape[::-1]) / 100
    corner = np.array([window[1].start, window[0].start])
    inner = mask[window]
    exact, pixels = outline(inner), int(np.count_nonzero(inner))

    def simplified(tolerance: float) -> list[Ring]:
        shapes = shapely.simplify(exact, tolerance) if tolerance else exact
        rings = [shapely.get_coordinates(one.exterior)[:-1] for shape in shapes for one in _without_holes(shape)]
        settled = _settled(rings, inner.shape[0])
        percent = (np.clip(np.round((ring + corner) / scale, digits), 0, 100) for ring in settled)
        return [ring for ring in percent if len(ring) >= _LEAST_POINTS]

    def faithful(rings: list[Ring]) -> bool:
        back = [ring * scale - corner for ring in rings]
        area = sum(shapely.Polygon(ring).area for ring in back)
        # Half a pixel holds its centre too, so few pixels need their area besides.
        return (
            abs(area - pixels) <= _AREA * pixels and iou(polygons_to_mask(back, *inner.shape), inner) >= MIN_POLYGON_IOU
        )

    best, low, high = simplified(0), 0, len(_TOLERANCES)
    while low < high:
        middle = (low + high) // 2
        rings = simplified(_TOLERANCES[middle])
        if faithful(rings):
            best, low = rings, middle + 1
        else:
            high = middle
    return best


def outline(mask: Mask) -> NDArray[Any]:
    """The exact outline: a shapely Polygon, with holes, of every piece."""
    padded = np.pad(mask, 1).astype(np.int8)
    across = _sides(np.diff(padded, axis=0)[:, 1:-1])
    down = _sides(np.diff(padded, axis=1)[1:-1].T)[:, :, ::-1]
    faces = shapely.get_parts(shapely.polygonize(shapely.linestrings(np.concatenate([across, down]))))
    # Faces are the pieces and the holes: a point of each tells which.
    inside = shapely.get_coordinates(shapely.point_on_surface(faces)).astype(np.int64)
    pieces: NDArray[Any] = faces[mask[inside[:, 1], inside[:, 0]]]
    return pieces


def polygons_to_mask(rings: Iterable[Ring], height: int, width: int) -> Mask:
    """The pixels whose centres lie in an odd number of the rings' windings: all rings together, as one shape."""
    rows, crossings = _crossings(rings, height)
    return _filled(rows, crossings, height, width)


def iou(one: Mask, other: Mask) -> float:
    """Intersection over union; 1 where both are empty."""
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 1.0


def is_simple_polygon(mask: Mask) -> bool:
    """Whether one ring without holes is the whole outline."""
    window = bounding_slices(mask)
    if window is None:
        return False
    pieces = outline(mask[window])
    return len(pieces) == 1 and not shapely.get_num_interior_rings(pieces[0])


def _crossings(rings: Iterable[Ring], height: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Where the rings cross the centres of the rows: (row, x) of each crossing."""
    kept = [np.asarray(ring, np.float64) for ring in rings if len(ring) >= _LEAST_POINTS]
    if not kept:
        return np.zeros(0, np.int64), np.zeros(0)
    begin = np.concatenate(kept)
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in kept])
    # An edge crosses the rows whose centres lie in its half-open range, so that neighbours never cross one twice.
    rows = np.clip(np.ceil(np.stack([begin[:, 1], end[:, 1]]) - 0.5), 0, height).astype(np.int64)
    first, count = rows.min(axis=0), np.abs(rows[1] - rows[0])
    edge = np.repeat(np.arange(len(begin)), count)
    row = first[edge] + np.arange(edge.size) - np.repeat(np.cumsum(count) - count, count)
    (x, y), (x_end, y_end) = begin[edge].T, end[edge].T
    return row, x + (row + 0.5 - y) * (x_end - x) / (y_end - y)


def _filled(rows: NDArray[np.int64], crossings: NDArray[np.float64], height: int, width: int) -> Mask:
    column = np.clip(np.ceil(crossings - 0.5), 0, width).astype(np.int64)
    toggles = np.bincount(rows * (width + 1) + column, minlength=height * (width + 1))
    odd = (toggles & 1).astype(np.uint8).reshape(height, width + 1)
    filled: Mask = np.bitwise_xor.accumulate(odd, axis=1)[:, :width].astype(np.bool_)
    return filled


def _settled(rings: list[Ring], height: int) -> list[Ring]:
    """The rings; moved by a hair where they run through centres of pixels, as slanting lines between corners often do:
    whether such a pixel is inside would hang on the last digit.
    """
    _, crossings = _crossings(rings, height)
    if np.any(np.abs(crossings - np.floor(crossings) - 0.5) < _TIE):
        return [ring + np.array([_HAIR, 0.0]) for ring in rings]
    return rings


def _sides(steps: NDArray[np.int8]) -> NDArray[np.float64]:
    """Runs of equal steps between rows as lines ((x, y), (x, y)). Where four pixels meet like a chessboard's, the step
    changes its sign, so lines end wherever others begin.
    """
    lines, columns = steps.shape
    flat = np.zeros((lines, columns + 1), np.int8)
    flat[:, :columns] = steps
    flat = flat.ravel()
    bounds = np.flatnonzero(np.diff(flat, prepend=0, append=0))
    begins = bounds[flat[np.minimum(bounds, flat.size - 1)] != 0]
    ends = bounds[flat[bounds - 1] != 0] if bounds.size else bounds
    ends = ends[ends > 0]
    y, x = np.divmod(begins, columns + 1)
    x_end = ends - y * (columns + 1)
    return np.stack([np.stack([x, y], -1), np.stack([x_end, y], -1)], 1).astype(np.float64)


def _without_holes(shape: Any) -> Sequence[Any]:  # noqa: ANN401 - shapely publishes no types
    """The polygon, cut through its holes until none has any."""
    if shape.geom_type != "Polygon":
        return [piece for part in getattr(shape, "geoms", ()) for piece in _without_holes(part)]
    if not shape.interiors or shape.is_empty:
        return [] if shape.is_empty else [shape]
    left, _, right, _ = shape.interiors[0].bounds
    middle = (left + right) / 2 - min(0.25, (right - left) / 4)  # of whole numbers, where no pixel has its centre
    min_x, min_y, max_x, max_y = shape.bounds
    halves = (shapely.box(min_x, min_y, middle, max_y), shapely.box(middle, min_y, max_x, max_y))
    return [piece for half in halves for piece in _without_holes(shapely.intersection(shape, half))]
