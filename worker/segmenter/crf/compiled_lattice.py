"""The lattice of `permutohedral` built and filtered by compiled kernels, with the same points and weights.

One table of corners serves splat and slice, and a point's neighbours along an axis are two numbers: half the memory of
matrices. Points are found by sorting, and neighbours by merging two sorted lists.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32

from worker.segmenter.crf.arrays import Array
from worker.segmenter.crf.compiled_arrays import CompiledArrays
from worker.segmenter.crf.permutohedral import TINY, alpha, pack_keys, scales


@dataclass(frozen=True)
class CompiledLattice:
    """See permutohedral.Lattice."""

    arrays: CompiledArrays
    corners: Int32[np.ndarray, "rows axes"]
    """Points of each row."""
    weights: Float32[np.ndarray, "rows axes"]
    """Barycentric weights."""
    norm: Float32[np.ndarray, "rows"]
    pairs: Int32[np.ndarray, "axes points 2"]
    """Neighbours in the positive and in the negative direction; `points` if there is none."""
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
        """See permutohedral.Lattice; missing neighbours count."""
        return 2 * self.corners.size + 3 * self.axes * self.points

    @property
    def bytes(self) -> int:
        """Bytes read to filter once."""
        return 2 * (self.corners.nbytes + self.weights.nbytes + self.norm.nbytes) + self.pairs.nbytes

    def filter(self, table: Array, onto: Array | None = None) -> Array:
        """Filter (pixels, 4), and add the result to `onto` in place if given."""
        total = np.zeros_like(table) if onto is None else onto
        values, spare = (np.empty((self.points + 1, table.shape[1]), np.float32) for _ in range(2))
        sizes, lattice = (self.axes, len(table), self.points), (self.corners, self.weights, self.norm, self.pairs)
        self.arrays.kernels.filter(*sizes, *lattice, self.scale, table, values, spare, total)
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
    key, steps, key_bits = pack_keys(arrays, list(nearest))
    sorting = _Sorting(arrays, pixels, key_bits)
    if order is None:
        order = sorting.sorted(key) & sorting.row_mask
    weights = weights[order]
    blocks, corners = _points(sorting, key[order], [plane[order] for plane in turns], steps)
    pairs = _pairs(arrays, blocks, steps)
    plain = CompiledLattice(arrays, corners, weights, np.ones(pixels, np.float32), pairs, order, 1.0)
    raw = plain.filter(arrays.pad_columns(np.ones((pixels, 1), np.float32)))[:, 0]
    norm = arrays.to_float32((raw * alpha(d) + TINY) ** -0.5)
    return CompiledLattice(arrays, corners, weights, norm, pairs, order, alpha(d) * weight)


class _Sorting:
    """Sorts keys of rows, with one pair of buffers."""

    def __init__(self, arrays: CompiledArrays, rows: int, key_bits: int) -> None:
        self.arrays, self._row_numbers = arrays, np.arange(rows)
        self._numbers, self._spare = np.empty(rows, np.int64), np.empty(rows, np.int64)
        self.row_bits = rows.bit_length()
        self._bits = self.row_bits + key_bits
        self.row_mask = (1 << self.row_bits) - 1

    def sorted(self, key: Array) -> Array:
        """Return sorted numbers of key and row in one; valid until the next call."""
        np.left_shift(key, self.row_bits, out=self._numbers)
        self._numbers += self._row_numbers
        self.arrays.kernels.sort(len(key), self.row_bits, self._bits, self._numbers, self._spare)
        return self._numbers

    def number(self, key: Array, remainder: int, first: int, corners: Array) -> Array:
        """Write the points of one remainder into their column of `corners`, and return their keys, sorted."""
        keys = np.empty(len(key), np.int64)
        count = self.arrays.kernels.number_points(
            len(key), self.row_bits, corners.shape[1], remainder, first, self.sorted(key), keys, corners
        )
        return keys[:count].copy()


def _points(sorting: _Sorting, key: Array, turns: Sequence[Array], steps: Sequence[int]) -> tuple[list[Array], Array]:
    """Return sorted keys by remainder, in the order of the points' numbers, and each row's points."""
    axes, rows = len(turns), len(key)
    corners, blocks, count = np.empty((rows, axes), np.int32), [], 0
    for remainder in range(axes):
        if remainder:
            sorting.arrays.kernels.next_keys(rows, turns[remainder - 1], np.array([*steps, 0]), key)
        blocks.append(sorting.number(key, remainder, count, corners))
        count += len(blocks[-1])
    return blocks, corners


def _pairs(arrays: CompiledArrays, blocks: Sequence[Array], steps: Sequence[int]) -> Array:
    """Return each point's neighbours: +1 in every coordinate but the axis leads from a remainder to the next."""
    axes, firsts = len(blocks), np.cumsum([0, *(len(block) for block in blocks)]).tolist()
    pairs = np.full((axes, firsts[-1], 2), firsts[-1], np.int32)
    for axis in range(axes):
        for remainder, block in enumerate(blocks):
            after = (remainder + 1) % axes
            step = (0 if after else sum(steps)) - (steps[axis] if axis < axes - 1 else 0)
            other = blocks[after]
            arrays.kernels.find_neighbours(
                len(block), block, firsts[remainder], len(other), other, firsts[after], step, pairs[axis]
            )
    return pairs
