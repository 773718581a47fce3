"""Gaussian filtering of pixels by their features on a permutohedral lattice (Adams, Baek and Davis 2010).

A pixel's feature is inside a simplex of the lattice. Splat: its values go to the d + 1 corners by barycentric weights.
Blur: along each of d + 1 axes every point gets half of both neighbours' values, if they exist. Slice: a pixel gets the
corners' values by the same weights. All are sparse matrices that depend on the features alone, so they are built once.

The arithmetic (scales, rounding, order of axes, weights) is that of pydensecrf, so that both give the same labels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worker.segmenter.crf.arrays import Array, Arrays, Matrix

TINY = 1e-20
"""Keeps the normalisation finite (pydensecrf's own)."""
_INT64_BITS = 63


class LatticeTooFineError(ValueError):
    """The deviations are so small that the lattice's keys do not fit into 64 bits."""


@dataclass(frozen=True)
class Lattice:
    """One kernel over the pixels of one image, with its symmetric normalisation and its weight."""

    arrays: Arrays
    splat: Matrix
    blur: tuple[Matrix, ...]
    slice: Matrix
    order: Array
    """The pixels in the order of a table's rows: those of one simplex are adjacent, which saves a fifth of the time."""
    points: int
    entries: int
    """Entries of all matrices: multiply-adds to filter one channel."""

    @property
    def axes(self) -> int:
        return len(self.blur)

    @property
    def bytes(self) -> int:
        """Bytes read to filter once: values and indices of all entries."""
        return 8 * self.entries

    def filter(self, table: Array, onto: Array | None = None) -> Array:
        """Filter (pixels, channels), and add the result to `onto` in place if given."""
        filtered = _filter(self.arrays, self.splat, self.blur, self.slice, table)
        if onto is None:
            return filtered
        onto += filtered
        return onto


def build(arrays: Arrays, features: Sequence[Array], weight: float, order: Array | None = None) -> Lattice:
    """Build the lattice of d features, each an array over the pixels in units of its deviation.

    `order` is that of another lattice of the image. Raises: LatticeTooFineError.
    """
    d, pixels = len(features), len(features[0])
    corners = _corners(arrays, features)
    points = _points(arrays, corners)
    count = sum(len(block) for block in points.blocks)
    blur = tuple(
        _blur_matrix(arrays, _next_along(arrays, axis, points.blocks, corners.steps), count) for axis in range(d + 1)
    )
    order = points.pixels[:pixels] if order is None else order
    row = arrays.arange(pixels)
    row[order] = arrays.arange(pixels)
    back_starts, back = arrays.to_int32(arrays.arange(pixels + 1) * (d + 1)), points.of_pixels[order].reshape(-1)
    row = row[points.pixels]
    columns, weights = arrays.to_int32(row), corners.weights[order]
    splat_values = corners.weights.reshape(-1)[points.corners]
    splat = arrays.matrix(points.starts, columns, splat_values, pixels)
    plain_slice = arrays.matrix(back_starts, back, weights.reshape(-1), count)
    raw = _filter(arrays, splat, blur, plain_slice, arrays.full(1.0, pixels, 1))[:, 0]
    norm = arrays.to_float32((raw * alpha(d) + TINY) ** -0.5)
    slice_values = weights * (norm * (alpha(d) * weight))[:, None]
    return Lattice(
        arrays,
        splat=arrays.matrix(points.starts, columns, splat_values * norm[row], pixels),
        blur=blur,
        slice=arrays.matrix(back_starts, back, slice_values.reshape(-1), count),
        order=order,
        points=count,
        entries=2 * pixels * (d + 1) + sum(int(axis.nnz) for axis in blur),
    )


def _filter(arrays: Arrays, splat: Matrix, blur: Sequence[Matrix], back: Matrix, table: Array) -> Array:
    values = arrays.product(splat, table)
    for axis in blur:
        values = arrays.product(axis, values)
    return arrays.product(back, values)


@dataclass(frozen=True)
class _Corners:
    """The simplex of each pixel."""

    key: Array
    """The corner of remainder 0 as one number: its coordinates over d + 1 in a mixed radix."""
    steps: tuple[int, ...]
    """What one coordinate's next value adds to a key."""
    turns: Array
    """(pixels, d + 1): the step of the coordinate that changes from one corner to the next, in falling order."""
    weights: Array
    """(pixels, d + 1): barycentric weights by remainder."""


def _corners(arrays: Arrays, features: Sequence[Array]) -> _Corners:
    d, pixels = len(features), len(features[0])
    lifted, down = _elevate(features), float(np.float32(1 / (d + 1)))
    nearest = [(value * down).round() for value in lifted]
    away = [value - coordinate * (d + 1) for value, coordinate in zip(lifted, nearest, strict=True)]
    rank = [sum(nearest[1:], nearest[0]) + 0 for _ in lifted]
    for i in range(d + 1):
        for j in range(i + 1, d + 1):
            less = away[i] < away[j]
            rank[i] += less
            rank[j] += ~less
    for i in range(d + 1):
        turn = arrays.to_float32(rank[i] < 0) - arrays.to_float32(rank[i] > d)
        rank[i] += turn * (d + 1)
        nearest[i] += turn
    key, steps, _ = pack_keys(arrays, nearest[:d])
    ordered, turns = arrays.empty(pixels * (d + 1)), arrays.arange(pixels * (d + 1))
    last = arrays.arange(pixels) * (d + 1) + d
    for value, coordinate, value_rank, step in zip(lifted, nearest, rank, [*steps, 0], strict=True):
        at = last - arrays.to_int64(value_rank)
        ordered[at] = (value - coordinate * (d + 1)) * down
        turns[at] = step
    ordered = ordered.reshape(pixels, d + 1)
    weights = ordered + 0
    weights[:, 1:] -= ordered[:, :-1]
    weights[:, 0] += 1 - ordered[:, d]
    return _Corners(key, steps, turns.reshape(pixels, d + 1), weights)


def _elevate(features: Sequence[Array]) -> list[Array]:
    """Lift features onto the hyperplane in d + 1 dimensions, scaled so that the blur's deviation is 1 in features."""
    scale = scales(len(features))
    total, lifted = features[0] * 0, []
    for j in range(len(features), 0, -1):
        part = features[j - 1] * scale[j - 1]
        lifted.append(total - part * j)
        total = total + part
    return [total, *reversed(lifted)]


def scales(d: int) -> list[float]:
    """Return the scale of each of d features."""
    deviation = float(np.float32(math.sqrt(2 / 3) * (d + 1)))
    return [float(np.float32(1 / math.sqrt((i + 1) * (i + 2)) * deviation)) for i in range(d)]


def alpha(d: int) -> float:
    """Return the factor that makes up for the blur's sum, which is not 1 (pydensecrf's own)."""
    return float(np.float32(1 / (1 + 2.0**-d)))


def pack_keys(arrays: Arrays, coordinates: Sequence[Array]) -> tuple[Array, tuple[int, ...], int]:
    """Pack the coordinates of each pixel into one number; return the keys, each coordinate's step, and a key's bits.

    Raises LatticeTooFineError if keys and pixels do not fit into 64 bits.
    """
    steps: list[int] = []
    key, keys = arrays.to_int64(coordinates[0] * 0), 1
    for values in reversed(coordinates):
        # A corner may be one below its pixel, and a neighbour one beyond that on either side.
        low = int(values.min()) - 2
        steps.insert(0, keys)
        key += (arrays.to_int64(values) - low) * keys
        keys *= int(values.max()) - low + 2
        if math.log2(keys) + len(key).bit_length() >= _INT64_BITS:
            raise LatticeTooFineError("the CRF's deviations are too small for its lattice")
    return key, tuple(steps), keys.bit_length()


@dataclass(frozen=True)
class _Points:
    """The points of the lattice that pixels touch."""

    blocks: Sequence[Array]
    """Sorted keys by remainder; points are numbered in this order."""
    of_pixels: Array
    """(pixels, d + 1): the points of each pixel by remainder."""
    starts: Array
    """Where each point's entries begin in the two arrays below."""
    pixels: Array
    corners: Array
    """Indices into a table (pixels, d + 1)."""


def _points(arrays: Arrays, corners: _Corners) -> _Points:
    d, count = len(corners.steps), 0
    pixels = len(corners.key)
    bits = pixels.bit_length()
    pixel, low, key = arrays.arange(pixels), (1 << bits) - 1, corners.key
    blocks, of_pixels, starts, point_pixels, point_corners = [], [], [], [], []
    for remainder in range(d + 1):
        if remainder:
            key = key - corners.turns[:, remainder - 1]
        # Key and pixel as one number: the order is the same on every machine, and sorting plain numbers is fast.
        keyed = arrays.sorted((key << bits) + pixel)
        keys, sorted_pixels = keyed >> bits, keyed & low
        first = pixel == 0
        first[1:] = keys[1:] != keys[:-1]
        begin, numbers = pixel[first], arrays.empty_int32(pixels)
        numbers[sorted_pixels] = arrays.to_int32(first.cumsum(0) + (count - 1))
        blocks.append(keys[begin])
        of_pixels.append(numbers)
        starts.append(begin + remainder * pixels)
        point_pixels.append(sorted_pixels)
        point_corners.append(sorted_pixels * (d + 1) + remainder)
        count += len(begin)
    end = arrays.arange(1) + (d + 1) * pixels
    return _Points(
        blocks,
        arrays.xp.stack(of_pixels, 1),
        arrays.to_int32(arrays.xp.concatenate([*starts, end])),
        arrays.xp.concatenate(point_pixels),
        arrays.xp.concatenate(point_corners),
    )


def _next_along(arrays: Arrays, axis: int, blocks: Sequence[Array], steps: Sequence[int]) -> Array:
    """Return each point's neighbour in the positive direction of an axis (+1 in every other coordinate), or -1."""
    d, neighbours = len(steps), []
    offsets = np.cumsum([0, *(len(block) for block in blocks)]).tolist()
    for remainder, block in enumerate(blocks):
        after = (remainder + 1) % (d + 1)
        step = (0 if after else sum(steps)) - (steps[axis] if axis < d else 0)
        keys = block + step
        at = arrays.xp.searchsorted(blocks[after], keys).clip(0, len(blocks[after]) - 1)
        neighbours.append(arrays.xp.where(blocks[after][at] == keys, at + offsets[after], -1))
    return arrays.xp.concatenate(neighbours)


def _blur_matrix(arrays: Arrays, after: Array, count: int) -> Matrix:
    """Return the matrix that adds half of both neighbours to a point's value."""
    own = arrays.arange(count)
    source = own[after >= 0]
    target = after[source]
    row_sizes = own * 0 + 1
    row_sizes[source] += 1
    row_sizes[target] += 1
    starts = arrays.empty_int32(count + 1)
    starts[0] = 0
    starts[1:] = arrays.to_int32(row_sizes.cumsum(0))
    entries = int(starts[-1])
    indices, values = arrays.empty_int32(entries), arrays.full(0.5, entries)
    begin, end = starts[:-1], starts[1:]
    indices[begin], values[begin] = arrays.to_int32(own), 1.0
    indices[begin[source] + 1] = arrays.to_int32(target)
    indices[end[target] - 1] = arrays.to_int32(source)
    return arrays.matrix(starts, indices, values, count)
