"""Prompted crops: what g sees of each mask, drawn and resized on the host or on g's own device, to the same bits.

For a device the host sends two bits per pixel: the mask and its outlines. It computes the masks because the last bit of
OpenCV's interpolation differs between processors and a threshold would show it, and because the recurrence compares
masks there. All arithmetic is on integers, so no device can round differently.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from worker.segmenter import classifier
from worker.segmenter.classifier import Crops
from worker.segmenter.prompts.visual_prompts import OUTLINES, RED, PromptSource, apply_prompts, draw_outlines
from worker.segmenter.resampling import BITS, CropView, FilterTaps, filter_taps
from worker.segmenter.resizing import PackedMask, unpack_mask

_MAX_PIXELS = 1 << 24
"""Pixels of prompted images that exist at one time; each takes some 20 bytes while it is resized."""

Prompter = Callable[[Sequence[PackedMask | None]], Crops]
"""Returns what g sees of each mask of one image; None means the image without a prompt."""


def make_prompter(source: PromptSource, size: int, device: torch.device) -> Prompter:
    """Return the fastest way to the same crops: Pillow on a CPU, else on the device, where g reads them."""
    if device.type == "cpu":
        return partial(host_crops, source, size)
    return DevicePrompts(source, size, device).crops


def host_crops(source: PromptSource, size: int, masks: Sequence[PackedMask | None]) -> Crops:
    """See Prompter."""
    height, width = source.image.shape[:2]
    crops = np.empty((len(masks), size, size, 3), np.uint8)
    for crop, mask in zip(crops, masks, strict=True):
        pixels = source.image if mask is None else apply_prompts(source, unpack_mask(mask, height, width))
        crop[:] = classifier.crop(pixels, size)
    return torch.from_numpy(crops)


class DevicePrompts:
    """The prompted crops of one image."""

    def __init__(self, source: PromptSource, size: int, device: torch.device, *, max_pixels: int = _MAX_PIXELS) -> None:
        """Copy the image, its outside and the weights of its resize to the device.

        Masks are prompted `max_pixels` at a time, but at least one mask.
        """
        height, width = source.image.shape[:2]
        view = CropView.for_image(height, width, size)
        self._prompts, self._shape = source.prompts, (height, width)
        self._batch_size = max(1, max_pixels // (height * width))
        vertical = filter_taps(height, view.resized[1], view.top, size)
        self._rows = slice(*vertical.input_range)
        self._horizontal = _ResizePass.from_taps(filter_taps(width, view.resized[0], view.left, size), 0, device)
        self._vertical = _ResizePass.from_taps(vertical, self._rows.start, device)
        self._image, self._outside = (self._planes(pixels, device) for pixels in (source.image, source.outside))
        self._red = torch.tensor(RED, dtype=torch.uint8, device=device)[:, None, None]
        self._bits = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=device)
        self._no_crops = torch.zeros(0, size, size, 3, dtype=torch.uint8, device=device)

    def crops(self, masks: Sequence[PackedMask | None]) -> Crops:
        """See Prompter."""
        size = self._batch_size
        batches = (masks[start : start + size] for start in range(0, len(masks), size))
        return torch.cat([self._no_crops, *map(self._crop_batch, batches)])

    def _crop_batch(self, masks: Sequence[PackedMask | None]) -> Crops:
        full = np.full(-(-math.prod(self._shape) // 8), 255, np.uint8)
        pixels = self._where([full if mask is None else mask for mask in masks], self._image, self._outside)
        if not OUTLINES.isdisjoint(self._prompts):
            pixels = self._where([self._draw_outlines(mask) for mask in masks], self._red, pixels)
        return self._vertical(self._horizontal(pixels, -1), -2).permute(0, 2, 3, 1).contiguous()

    def _draw_outlines(self, mask: PackedMask | None) -> PackedMask:
        canvas = np.zeros(self._shape, np.uint8)
        if mask is not None:
            draw_outlines(canvas, unpack_mask(mask, *self._shape), self._prompts, 1)
        return np.packbits(canvas)

    def _where(
        self, bits: Sequence[PackedMask], inside: UInt8[Tensor, "3 _ _"], outside: UInt8[Tensor, "*b 3 rows w"]
    ) -> UInt8[Tensor, "n 3 rows w"]:
        packed = torch.from_numpy(np.stack(bits)).to(self._bits.device)
        mask = (packed[:, :, None] & self._bits).flatten(1)[:, : math.prod(self._shape)].view(-1, 1, *self._shape)
        return torch.where(mask[:, :, self._rows] != 0, inside, outside)

    def _planes(self, pixels: UInt8[np.ndarray, "h w 3"], device: torch.device) -> UInt8[Tensor, "3 rows w"]:
        return torch.from_numpy(np.array(pixels[self._rows])).to(device).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class _ResizePass:
    """One pass of the resize with its weights on the device. int32 holds all sums, as in Pillow itself."""

    positions: Int[Tensor, "k o"]
    weights: Int[Tensor, "k o"]

    @classmethod
    def from_taps(cls, taps: FilterTaps, start: int, device: torch.device) -> "_ResizePass":
        """For inputs without their first `start` pixels."""
        positions, weights = torch.from_numpy(taps.positions - start), torch.from_numpy(taps.weights)
        return cls(positions.to(device), weights.to(device, torch.int32))

    def __call__(self, pixels: UInt8[Tensor, "*shape"], dim: int) -> UInt8[Tensor, "*smaller"]:
        shape = [*pixels.shape]
        shape[dim] = self.positions.shape[1]
        total = torch.full(shape, 1 << (BITS - 1), dtype=torch.int32, device=pixels.device)
        by_rows = self.weights[:, :, None] if dim == -2 else self.weights  # noqa: PLR2004 - the last dimension but one
        for positions, weights in zip(self.positions, by_rows, strict=True):
            total += pixels.index_select(dim, positions) * weights
        return (total >> BITS).clamp_(0, 255).to(torch.uint8)
