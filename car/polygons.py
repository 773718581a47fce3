"""Masks as polygons, and polygons as masks.

Coordinates are pixels from the image's top left corner. A pixel is a unit square, so the outline of a mask runs along
the sides of its pixels and is exact. A polygon covers the pixels whose centers it contains.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import shapely
from numpy.typing import NDArray

from car.connected_components import bounding_slices
from car.rle import Mask

MIN_POLYGON_IOU: Final = 0.98
"""The lowest IoU of simplified polygons with their mask."""
_TOLERANCES: Final = tuple(0.5 * 2 ** (step / 2) for step in range(15))
"""Tolerances of the simplification, in pixels: 0.5 to 64."""
_AREA: Final = 0.05
"""The largest relative difference between the area of polygons and of their mask."""
_LEAST_POINTS: Final = 3
_TIE: Final = 0.001
_HAIR: Final = 0.0137
"""Pixels; not a simple fraction, so that shifted lines do not run through centers either."""

Polygon = NDArray[np.float64]
"""(n, 2): x, y; the last point is connected to the first."""


def mask_to_polygons(mask: Mask, *, digits: int = 4) -> list[Polygon]:
    """Rings in percent of the image's sides, rounded to `digits`, whose IoU with the mask is at least GUARD, taken
    together. Each is as simple as that allows. Pieces have rings of their own; one with holes is cut into some without.
    """
    window = bounding_slices(mask)
    if window is None:
        return []
    scale = np.array(mask.shape[::-1]) / 100
    corner = np.array([window[1].start, window[0].start])
    inner = mask[window]
    exact, pixels = outline(inner), int(np.count_nonzero(inner))

    def simplified(tolerance: float) -> list[Polygon]:
        shapes = shapely.simplify(exact, tolerance) if tolerance else exact
        rings = [shapely.get_coordinates(one.exterior)[:-1] for shape in shapes for one in _without_holes(shape)]
        settled = _settled(rings, inner.shape[0])
        percent = (np.clip(np.round((ring + corner) / scale, digits), 0, 100) for ring in settled)
        return [ring for ring in percent if len(ring) >= _LEAST_POINTS]

    def faithful(polygons: list[Polygon]) -> bool:
        back = [ring * scale - corner for ring in polygons]
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
    """Return the exact outline: a shapely Polygon with holes for every component."""
    padded = np.pad(mask, 1).astype(np.int8)
    across = _sides(np.diff(padded, axis=0)[:, 1:-1])
    down = _sides(np.diff(padded, axis=1)[1:-1].T)[:, :, ::-1]
    faces = shapely.get_parts(shapely.polygonize(shapely.linestrings(np.concatenate([across, down]))))
    # Faces are components or holes: a point of each face tells which.
    inside = shapely.get_coordinates(shapely.point_on_surface(faces)).astype(np.int64)
    pieces: NDArray[Any] = faces[mask[inside[:, 1], inside[:, 0]]]
    return pieces


def polygons_to_mask(polygons: Iterable[Polygon], height: int, width: int) -> Mask:
    """Return the pixels whose centers an odd number of polygons contain (even-odd rule)."""
    rows, crossings = _crossings(polygons, height)
    return _filled(rows, crossings, height, width)


def iou(first: Mask, other: Mask) -> float:
    """Return the intersection over union; 1 if both are empty."""
    union = np.count_nonzero(first | other)
    return np.count_nonzero(first & other) / union if union else 1.0


def is_simple_polygon(mask: Mask) -> bool:
    """Return whether the outline is one polygon without holes."""
    window = bounding_slices(mask)
    if window is None:
        return False
    pieces = outline(mask[window])
    return len(pieces) == 1 and not shapely.get_num_interior_rings(pieces[0])


def _crossings(polygons: Iterable[Polygon], height: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return where the polygons cross the centers of rows: (row, x) of each crossing."""
    kept = [np.asarray(ring, np.float64) for ring in polygons if len(ring) >= _LEAST_POINTS]
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


def _settled(polygons: list[Polygon], height: int) -> list[Polygon]:
    """The rings; moved by a hair where they run through centres of pixels, as slanting lines between corners often do:
    whether such a pixel is inside would hang on the last digit.
    """
    _, crossings = _crossings(polygons, height)
    if np.any(np.abs(crossings - np.floor(crossings) - 0.5) < _TIE):
        return [ring + np.array([_HAIR, 0.0]) for ring in polygons]
    return polygons


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
    """Split a polygon through its holes until no part has any."""
    if shape.geom_type != "Polygon":
        return [piece for part in getattr(shape, "geoms", ()) for piece in _without_holes(part)]
    if not shape.interiors or shape.is_empty:
        return [] if shape.is_empty else [shape]
    left, _, right, _ = shape.interiors[0].bounds
    middle = (left + right) / 2 - min(0.25, (right - left) / 4)  # of whole numbers, where no pixel has its centre
    min_x, min_y, max_x, max_y = shape.bounds
    halves = (shapely.box(min_x, min_y, middle, max_y), shapely.box(middle, min_y, max_x, max_y))
    return [piece for half in halves for piece in _without_holes(shapely.intersection(shape, half))]
