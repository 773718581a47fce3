"""The permutohedral lattice of `permutohedral`, made and filtered by compiled kernels: the same points and weights.

Rows are splatted and sliced by one table of corners, and a point's neighbours along an axis are two numbers: half the
memory of matrices. Points are found by sorting, and neighbours by going through two sorted lists at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32

from worker.segmenter.crf.arrays import Array
from worker.segmenter.crf.compiled_arrays import CompiledArrays
from worker.segmenter.crf.permutohedral import TINY, alpha, radix, scales


@dataclass(frozen=True)
class CompiledLattice:
    """See permutohedral.Lattice."""

    arrays: CompiledArrays
    corners: Int32[np.ndarray, "rows axes"]
    """Points."""
    weights: Float32[np.ndarray, "rows axes"]
    """Barycentric."""
    norm: Float32[np.ndarray, "rows"]
    pairs: Int32[np.ndarray, "axes points 2"]
    """Neighbours in the positive and in the negative direction; `points` where there is none."""
    order: Array
    scale: float

    @property
    def axes(self) -> int:
        return int(self.corners.shape[1])

    @property
    def points(self) -> int:
        return int(self.pairs.shape[1])

    @property
    def entries(self) -> int:
        """See permutohedral.Lattice. A neighbour that is not there counts."""
        return 2 * self.corners.size + 3 * self.axes * self.points

    @property
    def bytes(self) -> int:
        """Read in one filtering."""
        return 2 * (self.corners.nbytes + self.weights.nbytes + self.norm.nbytes) + self.pairs.nbytes

    def filter(self, table: Array, onto: Array | None = None) -> Array:
        """Of (pixels, 4); added to `onto` in place where that is given."""
        total = np.zeros_like(table) if onto is None else onto
        values, spare = (np.empty((self.points + 1, table.shape[1]), np.float32) for _ in range(2))
        self.arrays.kernels.filter(
            self.axes,
            len(table),
            self.points,
            self.corners,
            self.weights,
            self.norm,
            self.pairs,
            self.scale,
            table,
            values,
            spare,
            total,
        )
        return total


def build(
    arrays: CompiledArrays, features: Sequence[Array], weight: float, order: Array | None = None
) -> CompiledLattice:
    """See permutohedral.build."""
    d, pixels = len(features), len(features[0])
    nearest, turns = np.empty((d, pixels), np.int32), np.empty((d + 1, pixels), np.uint8)
    weights = np.empty((pixels, d + 1), np.float32)
    down = float(np.float32(1 / (d + 1)))
    arrays.kernels.simplices(
        d, pixels, np.stack(features), np.array(scales(d), np.float32), down, nearest, turns, weights
    )
    lows, steps, key_bits = radix(nearest.min(1).tolist(), nearest.max(1).tolist(), pixels)
    key = np.zeros(pixels, np.int64)
    for plane, low, step in zip(nearest, lows, steps, strict=True):
        key += (plane.astype(np.int64) - low) * step
    sorting = _Sorting(arrays, pixels, key_bits)
    if order is None:
        order = sorting.sorted(key) & sorting.rows
    weights = weights[order]
    blocks, corners = _points(sorting, key[order], [plane[order] for plane in turns], steps)
    pairs = _pairs(arrays, blocks, steps)
    plain = CompiledLattice(arrays, corners, weights, np.ones(pixels, np.float32), pairs, order, 1.0)
    raw = plain.filter(arrays.padded(np.ones((pixels, 1), np.float32)))[:, 0]
    norm = arrays.to_float32((raw * alpha(d) + TINY) ** -0.5)
    return CompiledLattice(arrays, corners, weights, norm, pairs, order, alpha(d) * weight)


class _Sorting:
    """Keys of rows, in one pair of buffers."""

    def __init__(self, arrays: CompiledArrays, rows: int, key_bits: int) -> None:
        self.arrays, self._count = arrays, np.arange(rows)
        self._numbers, self._spare = np.empty(rows, np.int64), np.empty(rows, np.int64)
        self.row_bits = rows.bit_length()
        self._bits = self.row_bits + key_bits
        self.rows = (1 << self.row_bits) - 1

    def sorted(self, key: Array) -> Array:
        """Key and row in one number; to be read until the next call."""
        np.left_shift(key, self.row_bits, out=self._numbers)
        self._numbers += self._count
        self.arrays.kernels.sort(len(key), self.row_bits, self._bits, self._numbers, self._spare)
        return self._numbers

    def number(self, key: Array, remainder: int, first: int, corners: Array) -> Array:
        """Points of one remainder, into their column of `corners`; their keys, sorted."""
        found = np.empty(len(key), np.int64)
        count = self.arrays.kernels.number(
            len(key), self.row_bits, corners.shape[1], remainder, first, self.sorted(key), found, corners
        )
        return found[:count].copy()


def _points(sorting: _Sorting, key: Array, turns: Sequence[Array], steps: Sequence[int]) -> tuple[list[Array], Array]:
    """Sorted keys by remainder, in the order in which points are numbered; and each row's points."""
    axes, rows = len(turns), len(key)
    corners, blocks, count = np.empty((rows, axes), np.int32), [], 0
    for remainder in range(axes):
        if remainder:
            sorting.arrays.kernels.turn(rows, turns[remainder - 1], np.array([*steps, 0]), key)
        blocks.append(sorting.number(key, remainder, count, corners))
        count += len(blocks[-1])
    return blocks, corners


def _pairs(arrays: CompiledArrays, blocks: Sequence[Array], steps: Sequence[int]) -> Array:
    """One up in every coordinate but the axis' leads from a remainder to the next."""
    axes, firsts = len(blocks), np.cumsum([0, *(len(block) for block in blocks)]).tolist()
    pairs = np.full((axes, firsts[-1], 2), firsts[-1], np.int32)
    for axis in range(axes):
        for remainder, block in enumerate(blocks):
            after = (remainder + 1) % axes
            step = (0 if after else sum(steps)) - (steps[axis] if axis < axes - 1 else 0)
            other = blocks[after]
            arrays.kernels.meet(
                len(block), block, firsts[remainder], len(other), other, firsts[after], step, pairs[axis]
            )
    return pairs
