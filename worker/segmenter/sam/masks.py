"""From SAM's coarse logits to masks at a picture's size: thresholds, stability, boxes and bits, row by row.

The package enlarges logits to the padded square, cuts off the padding, and resizes to the picture: two bilinear
interpolations, which are linear, so that rows and columns have one narrow matrix each. Only bands of rows of the whole
ever exist as numbers; what stays is a bit a pixel.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

STABILITY_OFFSET = 1.0
"""Logits by which the threshold is moved to see whether a mask is stable (the generator's default)."""

_PIECE = {"cpu": 64, "cuda": 1 << 16}
"""Rows or columns that are interpolated together. On a CPU few: they are made of few inputs, and stay in the cache. A
GPU would rather multiply by zeros than be asked twice.
"""

_BAND_BYTES = {"cpu": 1 << 22, "cuda": 1 << 28}
"""Of all masks that are enlarged together, as float32, at most."""

CELLS = 4
"""Logits to a patch's side."""

_POWERS = (128, 64, 32, 16, 8, 4, 2, 1)


@dataclass(frozen=True)
class Candidates:
    """Masks before duplicates are removed."""

    bits: UInt8[Tensor, "m h eighths"]
    """Each row's pixels, eight to a byte (np.packbits)."""
    quality: Float[Tensor, " m"]
    """Predicted IoU."""
    boxes: Int[Tensor, "m 4"]
    """x, y of the first and of the last pixel."""


@dataclass(frozen=True)
class _Piece:
    """Some outputs of an interpolation, and the inputs that they are made of."""

    outputs: slice
    inputs: slice
    weights: Float[Tensor, "outputs inputs"]


@dataclass(frozen=True)
class Canvas:
    """The way from logits to one size of pictures."""

    size: tuple[int, int]
    """(height, width) of the picture."""
    patches: tuple[int, int]
    """Rows and columns of patches whose logits the picture is made of; the others are padding."""
    rows: tuple[_Piece, ...]
    columns: tuple[_Piece, ...]
    at_once: int
    """Masks that are best enlarged together."""
    threshold: float
    """Logits above it are a mask's."""

    @classmethod
    def of(
        cls,
        size: tuple[int, int],
        resized: tuple[int, int],
        *,
        grid: int,
        side: int,
        threshold: float,
        on: torch.device,
    ) -> "Canvas":
        """For a picture that was brought to `resized` within a square of `side` pixels, of grid x grid patches."""
        piece = _PIECE[on.type]
        matrices = [
            _interpolation(CELLS * grid, side, inner, outer) for inner, outer in zip(resized, size, strict=True)
        ]
        rows, columns = (tuple(_pieces(matrix, piece, on)) for matrix in matrices)
        needed = tuple(-(-max(one.inputs.stop for one in axis) // CELLS) for axis in (rows, columns))
        at_once = max(1, _BAND_BYTES[on.type] // (4 * min(piece, size[0]) * size[1]))
        return cls(size, (needed[0], needed[1]), rows, columns, at_once, threshold)

    def screen(self, logits: Float[Tensor, "m _ _"], quality: Float[Tensor, " m"], least: float) -> Candidates:
        """The masks that are stable: that hardly change where the threshold is moved."""
        count, (h, w), device = len(logits), self.size, logits.device
        masks = torch.zeros(count, h, -(-w // 8) * 8, dtype=torch.bool, device=device)
        row, column = torch.empty(count, h, device=device), torch.full((count, w), -torch.inf, device=device)
        inner, outer = (torch.zeros(count, dtype=torch.int64, device=device) for _ in range(2))
        wide = torch.cat([logits[..., one.inputs] @ one.weights.mT for one in self.columns], -1)
        for one in self.rows:
            band = one.weights @ wide[:, one.inputs]
            inner += _count(band > self.threshold + STABILITY_OFFSET)
            outer += _count(band > self.threshold - STABILITY_OFFSET)
            masks[:, one.outputs, :w] = band > self.threshold
            row[:, one.outputs] = band.amax(2)
            column = torch.maximum(column, band.amax(1))
        stable = (inner / outer >= least) & (row.amax(1) > self.threshold)  # 0 / 0 is not stable
        keep = stable.nonzero().flatten()  # the one time that the device is waited for
        (left, right), (top, bottom) = (_ends(side[keep] > self.threshold) for side in (column, row))
        return Candidates(_packed(masks[keep]), quality[keep], torch.stack([left, top, right, bottom], 1))


def _interpolation(low: int, side: int, inner: int, outer: int) -> Float[Tensor, "outer low"]:
    """Two bilinear interpolations of one axis, low to side and, of that, the first `inner` to `outer`."""
    whole = functional.interpolate(torch.eye(low)[None], side, mode="linear", align_corners=False)
    matrix = functional.interpolate(whole[..., :inner], outer, mode="linear", align_corners=False)
    return matrix[0].T


def _pieces(matrix: Float[Tensor, "outputs inputs"], size: int, on: torch.device) -> Iterator[_Piece]:
    for start in range(0, len(matrix), size):
        weights = matrix[start : start + size]
        used = weights.any(0).nonzero()
        inputs = slice(int(used[0]), int(used[-1]) + 1)
        yield _Piece(slice(start, start + len(weights)), inputs, weights[:, inputs].contiguous().to(on))


def _count(pixels: Bool[Tensor, "m rows w"]) -> Int[Tensor, " m"]:
    return pixels.sum(-1, dtype=torch.int32).sum(-1)


def _ends(filled: Bool[Tensor, "m n"]) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """The first and the last place that is true."""
    first, last = filled.int().argmax(1), filled.flip(1).int().argmax(1)
    return first, filled.shape[1] - 1 - last


def _packed(masks: Bool[Tensor, "m h w"]) -> UInt8[Tensor, "m h eighths"]:
    """`w` is a multiple of 8."""
    if not masks.is_cuda:
        return torch.from_numpy(np.packbits(masks.numpy(), axis=-1))
    return _packed_on_device(masks)


def _packed_on_device(masks: Bool[Tensor, "m h w"]) -> UInt8[Tensor, "m h eighths"]:
    powers = torch.tensor(_POWERS, dtype=torch.uint8, device=masks.device)
    return (torch.unflatten(masks, -1, (-1, 8)) * powers).sum(-1, dtype=torch.uint8)
