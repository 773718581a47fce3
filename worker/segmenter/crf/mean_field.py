"""Mean-field inference of a fully connected Potts model over permutohedral lattices, as pydensecrf does it.

Each iteration: Q_k <- softmax(-U_k + sum of the kernels' filtered Q_k). Two things make it cheaper, not different:

- The Q of a pixel sum to 1 and a filter is linear, so the background's filtered Q is the filtered ones minus those of
  all labels. It is never stored: the energies of labels are relative to it.
- A filter treats channels alike. Labels are filtered a few at a time in place, so memory holds one Q however many there
  are.
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
"""The label of each pixel: 0 the background, k the k-th label. One layer if labels compete, else one each (0/1)."""

_MAX_CACHED = 24
"""Labels whose unary is cached. With more it is computed in every iteration: then memory holds one table of all."""
_UNUSED_COLUMN = -1e30
"""Unary of columns without a label."""
MIN_PROBABILITY = 1e-5
"""Least probability before the logarithm (pydensecrf's unary_from_softmax as the official code calls it)."""
_STEEP = 40.0
"""Sum of the kernels' weights from which exp() may overflow unless the maximum is subtracted first."""


@dataclass(frozen=True)
class MeanField:
    """Both kernels of one image, for all its labels, passes and iterations."""

    arrays: Arrays
    size: tuple[int, int]
    kernels: tuple[Lattice | CompiledLattice, ...]
    iterations: int
    steep: bool

    @classmethod
    def from_image(cls, arrays: Arrays, appearance: UInt8[np.ndarray, "h w 3"], recipe: Recipe) -> "MeanField":
        """Build the lattices. Raises: LatticeTooFineError."""
        height, width = appearance.shape[:2]
        pixel = arrays.arange(height * width)
        x, y = arrays.to_float32(pixel % width), arrays.to_float32(pixel // width)
        colors = arrays.to_float32(arrays.from_numpy(np.ascontiguousarray(appearance)).reshape(-1, 3))
        gaussian_sxy, bilateral_sxy = recipe.crf_gaussian_sxy, recipe.crf_bilateral_sxy
        channels = [colors[:, channel] / recipe.crf_bilateral_srgb for channel in range(3)]
        bilateral = _build(arrays, [x / bilateral_sxy, y / bilateral_sxy, *channels], recipe.crf_bilateral_compat)
        gaussian = _build(arrays, [x / gaussian_sxy, y / gaussian_sxy], recipe.crf_gaussian_compat, bilateral.order)
        steep = recipe.crf_gaussian_compat + recipe.crf_bilateral_compat > _STEEP
        return cls(arrays, (height, width), (gaussian, bilateral), recipe.crf_iterations, steep)

    def filter(self, table: Array) -> Array:
        """Filter (pixels, channels) with both kernels, and return the weighted sum."""
        channels, table = table.shape[1], self.arrays.pad_columns(table)
        return self.kernels[1].filter(table, onto=self.kernels[0].filter(table))[:, :channels]

    def label(self, cams: Float[np.ndarray, "n rows columns"], bg_factor: float, *, independent: bool) -> Labels:
        """Return the labels after the last iteration. `independent`: each CAM competes with the background alone."""
        if not len(cams):
            return np.zeros((0 if independent else 1, *self.size), np.uint8)
        unary = _Unary(self, cams, bg_factor, independent=independent)
        inference = (Binary if independent else MultiLabel)(self, unary)
        for _ in range(self.iterations):
            inference.step()
        ordered = inference.labels()
        labels: Labels = np.empty_like(ordered)
        labels[:, self.arrays.to_numpy(self.kernels[1].order)] = ordered
        return labels.reshape(-1, *self.size)

    @property
    def filtered_ones(self) -> Array:
        """The filtered Q of all labels together: (pixels, 1)."""
        return self.filter(self.arrays.full(1.0, self.size[0] * self.size[1], 1)) + 0  # a copy without padding columns


def _build(
    arrays: Arrays, features: Sequence[Array], weight: float, order: Array | None = None
) -> Lattice | CompiledLattice:
    if isinstance(arrays, CompiledArrays):
        return build_compiled(arrays, features, weight, order)
    return build(arrays, features, weight, order)


@dataclass
class _Unary:
    """U_background - U_k, computed from the CAMs at the grid's size."""

    mean_field: MeanField
    cams: Float[np.ndarray, "n rows columns"]
    bg_factor: float
    independent: bool
    blocks: list[slice] = field(init=False)
    _background: Array = field(init=False, default=None)
    _cache: dict[int, Array] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        arrays, n = self.mean_field.arrays, len(self.cams)
        step = arrays.max_columns
        self.blocks = [slice(start, min(start + step, n)) for start in range(0, n, step)]
        if not self.independent:
            maximum: Array = None
            for block in self.blocks:
                block_maximum = arrays.max_argmax(self._enlarge(block))[0][:, None]
                maximum = block_maximum if maximum is None else arrays.xp.maximum(maximum, block_maximum)
            self._background = self._log(1 - maximum, self.bg_factor)

    def block(self, block: slice) -> Array:
        """Return (pixels, columns), the block's labels first. Read-only."""
        if block.start in self._cache:
            return self._cache[block.start]
        cams = self._enlarge(block)
        background = self._log(1 - cams, self.bg_factor) if self.independent else self._background
        unary = self._log(cams, 1.0)
        unary -= background
        labels = block.stop - block.start
        if unary.shape[1] > labels:
            unary[:, labels:] = _UNUSED_COLUMN
        if len(self.cams) <= _MAX_CACHED:
            self._cache[block.start] = unary
        return unary

    def _log(self, probabilities: Array, power: float) -> Array:
        raised = probabilities if power == 1 else probabilities**power
        clipped = raised.clip(MIN_PROBABILITY, 1.0)
        return self.mean_field.arrays.xp.log(clipped, out=clipped)

    def _enlarge(self, block: slice) -> Array:
        arrays = self.mean_field.arrays
        cams = arrays.from_numpy(np.ascontiguousarray(self.cams[block], np.float32))
        return arrays.upsample(cams, *self.mean_field.size)[self.mean_field.kernels[1].order]


@dataclass
class MultiLabel:
    """Labels that compete for each pixel. Their energies are relative to the sum that all labels share."""

    mean_field: MeanField
    unary: _Unary

    def __post_init__(self) -> None:
        self.filtered_ones = self.mean_field.filtered_ones
        self.background = self.filtered_ones * 0
        """The background's energy."""
        self.energies = [self.unary.block(block) + 0 for block in self.unary.blocks]

    def step(self) -> None:
        arrays = self.mean_field.arrays
        self._normalise()
        self.background = self.filtered_ones + 0
        for k, block in enumerate(self.unary.blocks):
            self.energies[k] = self.mean_field.filter(self.energies[k])
            arrays.add_unary_multi(self.energies[k], self.unary.block(block), self.background)

    def _normalise(self) -> None:
        """Turn energies into Q in place."""
        arrays = self.mean_field.arrays
        if self.mean_field.steep:
            maximum = self.background
            for energies in self.energies:
                maximum = arrays.xp.maximum(maximum, arrays.max_argmax(energies)[0][:, None])
            for k in range(len(self.energies)):
                self.energies[k] -= maximum
            self.background = self.background - maximum
        total = arrays.xp.exp(self.background, out=self.background)
        for energies in self.energies:
            arrays.exp_and_sum(energies, total)
        for energies in self.energies:
            arrays.divide_rows(energies, total)

    def labels(self) -> Any:  # noqa: ANN401 - numpy
        arrays = self.mean_field.arrays
        maximum = self.background[:, 0]
        labels = arrays.to_int64(maximum * 0)
        for block, energies in zip(self.unary.blocks, self.energies, strict=True):
            block_maximum, column = arrays.max_argmax(energies)
            labels = arrays.xp.where(block_maximum > maximum, column + (block.start + 1), labels)
            maximum = arrays.xp.maximum(maximum, block_maximum)
        return arrays.to_numpy(labels[None]).astype(np.min_scalar_type(len(self.unary.cams)))


@dataclass
class Binary:
    """Labels that each compete with the background alone."""

    mean_field: MeanField
    unary: _Unary

    def __post_init__(self) -> None:
        self.filtered_ones = self.mean_field.filtered_ones
        self.energies = [self.unary.block(block) + 0 for block in self.unary.blocks]

    def step(self) -> None:
        arrays = self.mean_field.arrays
        for k, block in enumerate(self.unary.blocks):
            self.energies[k] = self.mean_field.filter(arrays.sigmoid(self.energies[k]))
            arrays.add_unary_binary(self.energies[k], self.unary.block(block), self.filtered_ones)

    def labels(self) -> Any:  # noqa: ANN401 - numpy
        arrays = self.mean_field.arrays
        won = np.concatenate([arrays.to_numpy((energies > 0).T) for energies in self.energies])
        return won[: len(self.unary.cams)].astype(np.uint8)  # only the last block has padding columns
