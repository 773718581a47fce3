"""From SAM's coarse logits to masks at an image's size: thresholds, stability, boxes and bits, band by band.

The package enlarges logits to the padded square, crops the padding, and resizes to the image: two bilinear
interpolations, which are linear, so that rows and columns have one sparse matrix each. Enlarged logits exist only in
bands of rows; what remains is a bit per pixel.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional

STABILITY_OFFSET = 1.0
"""Logits by which the threshold is moved to see whether a mask is stable (the generator's default)."""

_BAND_LENGTH = {"cpu": 64, "cuda": 1 << 16}
"""Rows or columns that are interpolated together. On a CPU few, because they need few inputs and stay in the cache; on
a GPU multiplying zeros is cheaper than further kernels."""

_BAND_BYTES = {"cpu": 1 << 22, "cuda": 1 << 28}
"""The most bytes, as float32, of a band of all masks that are enlarged together."""

CELLS = 4
"""Logits per side of a patch."""

_POWERS = (128, 64, 32, 16, 8, 4, 2, 1)


@dataclass(frozen=True)
class Candidates:
    """Masks before duplicates are removed."""

    bits: UInt8[Tensor, "m h eighths"]
    """Each row's pixels, eight to a byte (np.packbits)."""
    quality: Float[Tensor, " m"]
    """Predicted IoU."""
    boxes: Int[Tensor, "m 4"]
    """x, y of the first and the last pixel."""


@dataclass(frozen=True)
class _Band:
    """Consecutive outputs of an interpolation, and the inputs that they depend on."""

    outputs: slice
    inputs: slice
    weights: Float[Tensor, "outputs inputs"]


@dataclass(frozen=True)
class MaskUpscaler:
    """Turns logits into masks of one image size."""

    size: tuple[int, int]
    """(height, width) of the image."""
    patches: tuple[int, int]
    """Rows and columns of patches that the image covers; the others are padding."""
    rows: tuple[_Band, ...]
    columns: tuple[_Band, ...]
    batch_size: int
    """Masks to enlarge together."""
    threshold: float
    """Logits above it belong to a mask."""

    @classmethod
    def for_size(cls, size: tuple[int, int], resized: tuple[int, int], network: Sam) -> "MaskUpscaler":
        """For an image that was resized to `resized` within the network's square."""
        device, side = network.device, network.image_encoder.img_size
        length, low = _BAND_LENGTH[device.type], CELLS * network.prompt_encoder.image_embedding_size[0]
        rows, columns = (
            tuple(_bands(_interpolation(low, side, inner, outer), length, device))
            for inner, outer in zip(resized, size, strict=True)
        )
        patches = tuple(-(-max(band.inputs.stop for band in axis) // CELLS) for axis in (rows, columns))
        batch_size = max(1, _BAND_BYTES[device.type] // (4 * min(length, size[0]) * size[1]))
        return cls(size, (patches[0], patches[1]), rows, columns, batch_size, network.mask_threshold)

    def select_stable(
        self, logits: Float[Tensor, "m _ _"], quality: Float[Tensor, " m"], min_stability: float
    ) -> Candidates:
        """Return the masks that hardly change when the threshold is moved."""
        count, (h, w), device = len(logits), self.size, logits.device
        masks = torch.zeros(count, h, -(-w // 8) * 8, dtype=torch.bool, device=device)
        row, column = torch.empty(count, h, device=device), torch.full((count, w), -torch.inf, device=device)
        inner, outer = (torch.zeros(count, dtype=torch.int64, device=device) for _ in range(2))
        wide = torch.cat([logits[..., band.inputs] @ band.weights.mT for band in self.columns], -1)
        for band in self.rows:
            enlarged = band.weights @ wide[:, band.inputs]
            inner += _count(enlarged > self.threshold + STABILITY_OFFSET)
            outer += _count(enlarged > self.threshold - STABILITY_OFFSET)
            masks[:, band.outputs, :w] = enlarged > self.threshold
            row[:, band.outputs] = enlarged.amax(2)
            column = torch.maximum(column, enlarged.amax(1))
        stable = (inner / outer >= min_stability) & (row.amax(1) > self.threshold)  # 0 / 0 is not stable
        keep = stable.nonzero().flatten()  # the only synchronisation with the device
        (left, right), (top, bottom) = (_ends(side[keep] > self.threshold) for side in (column, row))
        return Candidates(_pack(masks[keep]), quality[keep], torch.stack([left, top, right, bottom], 1))


def _interpolation(low: int, side: int, inner: int, outer: int) -> Float[Tensor, "outer low"]:
    """Return two bilinear interpolations of one axis: low to side and, of that, the first `inner` to `outer`."""
    square = functional.interpolate(torch.eye(low)[None], side, mode="linear", align_corners=False)
    matrix = functional.interpolate(square[..., :inner], outer, mode="linear", align_corners=False)
    return matrix[0].T


def _bands(matrix: Float[Tensor, "outputs inputs"], length: int, device: torch.device) -> Iterator[_Band]:
    for start in range(0, len(matrix), length):
        weights = matrix[start : start + length]
        used = weights.any(0).nonzero()
        inputs = slice(int(used[0]), int(used[-1]) + 1)
        yield _Band(slice(start, start + len(weights)), inputs, weights[:, inputs].contiguous().to(device))


def _count(pixels: Bool[Tensor, "m rows w"]) -> Int[Tensor, " m"]:
    return pixels.sum(-1, dtype=torch.int32).sum(-1)


def _ends(filled: Bool[Tensor, "m n"]) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """Return the first and the last index that is true."""
    first, last = filled.int().argmax(1), filled.flip(1).int().argmax(1)
    return first, filled.shape[1] - 1 - last


def _pack(masks: Bool[Tensor, "m h w"]) -> UInt8[Tensor, "m h eighths"]:
    """`w` is a multiple of 8."""
    if not masks.is_cuda:
        return torch.from_numpy(np.packbits(masks.numpy(), axis=-1))
    return _pack_on_device(masks)


def _pack_on_device(masks: Bool[Tensor, "m h w"]) -> UInt8[Tensor, "m h eighths"]:
    powers = torch.tensor(_POWERS, dtype=torch.uint8, device=masks.device)
    return (torch.unflatten(masks, -1, (-1, 8)) * powers).sum(-1, dtype=torch.uint8)
