"""Mean-field inference of a fully connected Potts model over permutohedral lattices, as pydensecrf does it.

Each iteration: Q_k <- softmax(-U_k + sum of the kernels' filtered Q_k). Two things make it cheaper, not different:

- The Q of a pixel sum to 1 and a filter is linear, so the background's is the filtered ones less all words'. It is
  never stored: the energy that is kept of word k is relative to it.
- A filter knows no channels. Words are filtered a few at a time in place, so that memory holds one Q whatever they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8, UInt16

from car.recipe import Recipe
from worker.segmenter.crf.arrays import Array, Arrays
from worker.segmenter.crf.compiled_arrays import CompiledArrays
from worker.segmenter.crf.compiled_lattice import CompiledLattice
from worker.segmenter.crf.compiled_lattice import build as build_compiled
from worker.segmenter.crf.permutohedral import Lattice, build

Labels = UInt8[np.ndarray, "m h w"] | UInt16[np.ndarray, "m h w"]
"""Who has each pixel: 0 the background, k the k-th word. One sheet where words compete, else one a word (0 or 1)."""

_KEPT = 24
"""Words whose evidence is kept. That of more is computed in every iteration: memory holds one table of all."""
_NOBODY = -1e30
"""Evidence of columns that are no word's."""
_LEAST = 1e-5
_STEEP = 40.0
"""Sum of the kernels' weights from which exp() may overflow unless the greatest is subtracted first."""


@dataclass(frozen=True)
class Field:
    """Both kernels of one picture: for all its words, passes and iterations."""

    arrays: Arrays
    size: tuple[int, int]
    kernels: tuple[Lattice | CompiledLattice, ...]
    iterations: int
    steep: bool

    @classmethod
    def over(cls, arrays: Arrays, appearance: UInt8[np.ndarray, "h w 3"], recipe: Recipe) -> "Field":
        """Raises: LatticeTooFine."""
        height, width = appearance.shape[:2]
        pixel = arrays.arange(height * width)
        x, y = arrays.to_float32(pixel % width), arrays.to_float32(pixel // width)
        colours = arrays.to_float32(arrays.from_numpy(np.ascontiguousarray(appearance)).reshape(-1, 3))
        near, far = recipe.crf_gaussian_sxy, recipe.crf_bilateral_sxy
        seen = [colours[:, channel] / recipe.crf_bilateral_srgb for channel in range(3)]
        bilateral = _built(arrays, [x / far, y / far, *seen], recipe.crf_bilateral_compat)
        gaussian = _built(arrays, [x / near, y / near], recipe.crf_gaussian_compat, bilateral.order)
        steep = recipe.crf_gaussian_compat + recipe.crf_bilateral_compat > _STEEP
        return cls(arrays, (height, width), (gaussian, bilateral), recipe.crf_iterations, steep)

    def filter(self, table: Array) -> Array:
        """Sum of the kernels, each with its weight, of (pixels, channels)."""
        channels, table = table.shape[1], self.arrays.padded(table)
        return self.kernels[1].filter(table, onto=self.kernels[0].filter(table))[:, :channels]

    def label(self, cams: Float[np.ndarray, "n rows columns"], bg_factor: float, *, alone: bool) -> Labels:
        """Labels of the last iteration. `alone`: each word against the background by itself."""
        if not len(cams):
            return np.zeros((0 if alone else 1, *self.size), np.uint8)
        inference = (Binary if alone else MultiLabel)(self, _Evidence(self, cams, bg_factor, alone=alone))
        for _ in range(self.iterations):
            inference.step()
        found = inference.labels()
        labels: Labels = np.empty_like(found)
        labels[:, self.arrays.to_numpy(self.kernels[1].order)] = found
        return labels.reshape(-1, *self.size)

    @property
    def ones(self) -> Array:
        """The filtered Q of all labels together: (pixels, 1)."""
        return (
            self.filter(self.arrays.full(1.0, self.size[0] * self.size[1], 1)) + 0
        )  # a column with no others beside it


def _built(
    arrays: Arrays, features: Sequence[Array], weight: float, order: Array | None = None
) -> Lattice | CompiledLattice:
    if isinstance(arrays, CompiledArrays):
        return build_compiled(arrays, features, weight, order)
    return build(arrays, features, weight, order)


@dataclass
class _Evidence:
    """U_background - U_k, from the CAMs at the grid's size: enlarged anew each time where there are many."""

    on: Field
    cams: Float[np.ndarray, "n rows columns"]
    bg_factor: float
    alone: bool
    blocks: list[slice] = field(init=False)
    _background: Array = field(init=False, default=None)
    _kept: dict[int, Array] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        n, many = len(self.cams), self.on.arrays.at_once
        self.blocks = [slice(start, min(start + many, n)) for start in range(0, n, many)]
        if not self.alone:
            arrays = self.on.arrays
            greatest: Array = None
            for block in self.blocks:
                top = arrays.max_argmax(self._enlarged(block))[0][:, None]
                greatest = top if greatest is None else arrays.maximum(greatest, top)
            self._background = self._log(1 - greatest, self.bg_factor)

    def of(self, block: slice) -> Array:
        """(pixels, columns), the words of the block first; to be read."""
        if block.start in self._kept:
            return self._kept[block.start]
        cams = self._enlarged(block)
        background = self._log(1 - cams, self.bg_factor) if self.alone else self._background
        cams = self._log(cams, 1.0)
        cams -= background
        words = block.stop - block.start
        if cams.shape[1] > words:
            cams[:, words:] = _NOBODY
        if len(self.cams) <= _KEPT:
            self._kept[block.start] = cams
        return cams

    def _log(self, probabilities: Array, power: float) -> Array:
        raised = probabilities if power == 1 else probabilities**power
        return self.on.arrays.log_(raised.clip(_LEAST, 1.0))

    def _enlarged(self, block: slice) -> Array:
        arrays = self.on.arrays
        cams = arrays.from_numpy(np.ascontiguousarray(self.cams[block], np.float32))
        return arrays.upsample(cams, *self.on.size)[self.on.kernels[1].order]


@dataclass
class MultiLabel:
    """Words that compete for each pixel. The energies are kept less what all words have in common."""

    field: Field
    evidence: _Evidence

    def __post_init__(self) -> None:
        self.ones = self.field.ones
        self.background = self.ones * 0
        """Its energy."""
        self.energies = [self.evidence.of(block) + 0 for block in self.evidence.blocks]

    def step(self) -> None:
        arrays = self.field.arrays
        self._normalise()
        self.background = self.ones + 0
        for k, block in enumerate(self.evidence.blocks):
            self.energies[k] = self.field.filter(self.energies[k])
            arrays.add_unary_multi(self.energies[k], self.evidence.of(block), self.background)

    def _normalise(self) -> None:
        """Energies to Q in place."""
        arrays = self.field.arrays
        if self.field.steep:
            peak = self.background
            for energies in self.energies:
                peak = arrays.maximum(peak, arrays.max_argmax(energies)[0][:, None])
            for k in range(len(self.energies)):
                self.energies[k] -= peak
            self.background = self.background - peak
        total = arrays.exp_(self.background)
        for energies in self.energies:
            arrays.exponentials(energies, total)
        for energies in self.energies:
            arrays.divide(energies, total)

    def labels(self) -> Any:  # noqa: ANN401 - numpy
        arrays = self.field.arrays
        best = self.background[:, 0]
        who = arrays.to_int64(best * 0)
        for block, energies in zip(self.evidence.blocks, self.energies, strict=True):
            top, column = arrays.max_argmax(energies)
            who = arrays.where(top > best, column + (block.start + 1), who)
            best = arrays.maximum(best, top)
        return _small(arrays.to_numpy(who[None]), len(self.evidence.cams))


@dataclass
class Binary:
    """Words each with a field of its own, which is the same field."""

    field: Field
    evidence: _Evidence

    def __post_init__(self) -> None:
        self.ones = self.field.ones
        self.energies = [self.evidence.of(block) + 0 for block in self.evidence.blocks]

    def step(self) -> None:
        arrays = self.field.arrays
        for k, block in enumerate(self.evidence.blocks):
            self.energies[k] = self.field.filter(arrays.sigmoid(self.energies[k]))
            arrays.add_unary_binary(self.energies[k], self.evidence.of(block), self.ones)

    def labels(self) -> Any:  # noqa: ANN401 - numpy
        arrays = self.field.arrays
        won = np.concatenate([arrays.to_numpy((energies > 0).T) for energies in self.energies])
        return _small(won[: len(self.evidence.cams)], 1)  # only the last block has columns to spare


def _small(labels: Any, most: int) -> Any:  # noqa: ANN401 - numpy
    return labels.astype(np.min_scalar_type(most))
