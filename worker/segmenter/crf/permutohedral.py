"""Gaussian filtering of pixels by their features on a permutohedral lattice (Adams, Baek and Davis 2010).

A pixel's feature lies in a simplex of the lattice. Splat: its values go to the d + 1 corners by barycentric weights.
Blur: along each of d + 1 axes every point takes half of both neighbours, where they exist. Slice: a pixel takes the
corners' values by the same weights. All are sparse matrices that depend on the features alone, so they are made once.

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
    """Deviations so small that the lattice's keys do not fit into 64 bits."""


@dataclass(frozen=True)
class Lattice:
    """One kernel over one picture's pixels, its symmetric normalisation and its weight included."""

    arrays: Arrays
    splat: Matrix
    blur: tuple[Matrix, ...]
    slice: Matrix
    order: Array
    """Pixels as rows of tables are: those of one place in the lattice together, which is worth a fifth of the time."""
    points: int
    entries: int
    """Of all matrices: multiply-adds of one filtering of one channel."""

    @property
    def axes(self) -> int:
        return len(self.blur)

    @property
    def bytes(self) -> int:
        """Read in one filtering: values and indices of all entries."""
        return 8 * self.entries

    def filter(self, table: Array, onto: Array | None = None) -> Array:
        """Of (pixels, channels); added to `onto` in place where that is given."""
        filtered = _filter(self.arrays, self.splat, self.blur, self.slice, table)
        if onto is None:
            return filtered
        onto += filtered
        return onto


def build(arrays: Arrays, features: Sequence[Array], weight: float, order: Array | None = None) -> Lattice:
    """Of d features, each an array over the pixels, in units of its deviation. `order` is that of another lattice.

    Raises:
        LatticeTooFine: the features span too many points.

    """
    d, pixels = len(features), len(features[0])
    corners = _corners(arrays, features)
    found = _points(arrays, corners)
    count = sum(len(block) for block in found.blocks)
    blur = tuple(
        _blur_matrix(arrays, _next_along(arrays, axis, found.blocks, corners.steps), count) for axis in range(d + 1)
    )
    order = found.pixels[:pixels] if order is None else order
    row = arrays.arange(pixels)
    row[order] = arrays.arange(pixels)
    back_starts, back = arrays.to_int32(arrays.arange(pixels + 1) * (d + 1)), found.of_pixels[order].reshape(-1)
    row = row[found.pixels]
    where, weights = arrays.to_int32(row), corners.weights[order]
    splat_values = corners.weights.reshape(-1)[found.corners]
    splat = arrays.matrix(found.starts, where, splat_values, pixels)
    ones = arrays.full(1.0, pixels, 1)
    raw = _filter(arrays, splat, blur, arrays.matrix(back_starts, back, weights.reshape(-1), count), ones)[:, 0]
    norm = arrays.to_float32((raw * alpha(d) + TINY) ** -0.5)
    slice_values = weights * (norm * (alpha(d) * weight))[:, None]
    return Lattice(
        arrays,
        splat=arrays.matrix(found.starts, where, splat_values * norm[row], pixels),
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
    """Of its corner of remainder 0, as one number: coordinates over d + 1 in a mixed radix."""
    steps: tuple[int, ...]
    """What one coordinate's next value adds to a key."""
    turns: Array
    """(pixels, d + 1): the step of the coordinate by which the way round the corners goes on, in falling order."""
    weights: Array
    """Barycentric: (pixels, d + 1), by remainder."""


def _corners(arrays: Arrays, features: Sequence[Array]) -> _Corners:
    d, pixels = len(features), len(features[0])
    lifted, down = _elevated(features), float(np.float32(1 / (d + 1)))
    near = [(value * down).round() for value in lifted]
    away = [value - whole * (d + 1) for value, whole in zip(lifted, near, strict=True)]
    rank = [sum(near[1:], near[0]) + 0 for _ in lifted]
    for i in range(d + 1):
        for j in range(i + 1, d + 1):
            less = away[i] < away[j]
            rank[i] += less
            rank[j] += ~less
    for i in range(d + 1):
        turn = arrays.to_float32(rank[i] < 0) - arrays.to_float32(rank[i] > d)
        rank[i] += turn * (d + 1)
        near[i] += turn
    key, steps = _packed(arrays, near[:d])
    ordered, turns = arrays.empty(pixels * (d + 1)), arrays.arange(pixels * (d + 1))
    last = arrays.arange(pixels) * (d + 1) + d
    for value, whole, place, step in zip(lifted, near, rank, [*steps, 0], strict=True):
        at = last - arrays.to_int64(place)
        ordered[at] = (value - whole * (d + 1)) * down
        turns[at] = step
    ordered = ordered.reshape(pixels, d + 1)
    weights = ordered + 0
    weights[:, 1:] -= ordered[:, :-1]
    weights[:, 0] += 1 - ordered[:, d]
    return _Corners(key, steps, turns.reshape(pixels, d + 1), weights)


def _elevated(features: Sequence[Array]) -> list[Array]:
    """On the hyperplane in d + 1 dimensions, scaled so that the blur's deviation is 1 in features."""
    scale = scales(len(features))
    total, lifted = features[0] * 0, []
    for j in range(len(features), 0, -1):
        part = features[j - 1] * scale[j - 1]
        lifted.append(total - part * j)
        total = total + part
    return [total, *reversed(lifted)]


def scales(d: int) -> list[float]:
    """Of d features."""
    deviation = float(np.float32(math.sqrt(2 / 3) * (d + 1)))
    return [float(np.float32(1 / math.sqrt((i + 1) * (i + 2)) * deviation)) for i in range(d)]


def alpha(d: int) -> float:
    """What a filter's result is multiplied by, since the blur's sum is not 1 (pydensecrf's own)."""
    return float(np.float32(1 / (1 + 2.0**-d)))


def _packed(arrays: Arrays, near: Sequence[Array]) -> tuple[Array, tuple[int, ...]]:
    least, most = [int(value.min()) for value in near], [int(value.max()) for value in near]
    lows, steps, _ = radix(least, most, len(near[0]))
    parts = [(arrays.to_int64(value) - low) * step for value, low, step in zip(near, lows, steps, strict=True)]
    return sum(parts[1:], parts[0]), steps


def radix(least: Sequence[int], most: Sequence[int], pixels: int) -> tuple[list[int], tuple[int, ...], int]:
    """Coordinates as one number: what is taken from each, what its next value adds, and how many bits a key has.

    Raises: LatticeTooFine.
    """
    # A corner may lie one below its pixel, a neighbour one beyond that on either side.
    steps: list[int] = []
    lows, many = [low - 2 for low in least], 1
    for low, high in zip(lows[::-1], most[::-1], strict=True):
        steps.insert(0, many)
        many *= high - low + 2
    if math.log2(many) + pixels.bit_length() >= _INT64_BITS:
        raise LatticeTooFineError("the CRF's deviations are too small for its lattice")
    return lows, tuple(steps), many.bit_length()


@dataclass(frozen=True)
class _Points:
    """Of the lattice: those that pixels touch."""

    blocks: Sequence[Array]
    """Sorted keys by remainder, in the order in which the points are numbered."""
    of_pixels: Array
    """(pixels, d + 1): numbers of each pixel's points, by remainder."""
    starts: Array
    """Where each point's entries begin in the two below."""
    pixels: Array
    corners: Array
    """Entries of a table (pixels, d + 1)."""


def _points(arrays: Arrays, corners: _Corners) -> _Points:
    d, count = len(corners.steps), 0
    pixels = len(corners.key)
    bits = pixels.bit_length()
    pixel, low, key = arrays.arange(pixels), (1 << bits) - 1, corners.key
    blocks, of_pixels, starts, where, corner = [], [], [], [], []
    for remainder in range(d + 1):
        if remainder:
            key = key - corners.turns[:, remainder - 1]
        # Pixel and key in one number: the order is the same on every machine, and one sort of plain numbers is quick.
        both = arrays.sorted((key << bits) + pixel)
        keys, mine = both >> bits, both & low
        first = arrays.zeros_bool(pixels)
        first[0] = True
        first[1:] = keys[1:] != keys[:-1]
        begin, numbers = pixel[first], arrays.empty_int64(pixels)
        numbers[mine] = arrays.to_int32(first.cumsum(0) + (count - 1))
        blocks.append(keys[begin])
        of_pixels.append(numbers)
        starts.append(begin + remainder * pixels)
        where.append(mine)
        corner.append(mine * (d + 1) + remainder)
        count += len(begin)
    end = arrays.arange(1) + (d + 1) * pixels
    return _Points(
        blocks,
        arrays.columns(of_pixels),
        arrays.to_int32(arrays.concatenate([*starts, end])),
        arrays.concatenate(where),
        arrays.concatenate(corner),
    )


def _next_along(arrays: Arrays, axis: int, blocks: Sequence[Array], steps: Sequence[int]) -> Array:
    """Each point's neighbour in the positive direction of an axis, or -1: one up in every coordinate but this."""
    d, found = len(steps), []
    offsets = np.cumsum([0, *(len(block) for block in blocks)]).tolist()
    for remainder, block in enumerate(blocks):
        after = (remainder + 1) % (d + 1)
        step = (0 if after else sum(steps)) - (steps[axis] if axis < d else 0)
        wanted = block + step
        at = arrays.search(blocks[after], wanted).clip(0, len(blocks[after]) - 1)
        found.append(arrays.where(blocks[after][at] == wanted, at + offsets[after], -1))
    return arrays.concatenate(found)


def _blur_matrix(arrays: Arrays, after: Array, count: int) -> Matrix:
    """A point's own value and half of its neighbours'."""
    own = arrays.arange(count)
    source = own[after >= 0]
    target = after[source]
    many = own * 0 + 1
    many[source] += 1
    many[target] += 1
    starts = arrays.empty_int64(count + 1)
    starts[0] = 0
    starts[1:] = arrays.to_int32(many.cumsum(0))
    entries = int(starts[-1])
    indices, values = arrays.empty_int64(entries), arrays.full(0.5, entries)
    begin, end = starts[:-1], starts[1:]
    indices[begin], values[begin] = arrays.to_int32(own), 1.0
    indices[begin[source] + 1] = arrays.to_int32(target)
    indices[end[target] - 1] = arrays.to_int32(source)
    return arrays.matrix(starts, indices, values, count)
