"""Prompted crops made on g's own device, all new masks of a picture at once, to the bits of visual_prompts.show and
classifier.crop.

The host gives two bits a pixel: the mask and its red lines. The mask stays the host's because it is what OpenCV's
enlarging says, whose last bit differs between processors and a threshold would show it; and because the recurrence
compares masks there. Everything is done in whole numbers, so no device can round differently.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from worker.segmenter.classifier import Crops
from worker.segmenter.prompts import prompt_outlines
from worker.segmenter.prompts.visual_prompts import RED, PromptSource
from worker.segmenter.resampling import BITS, FilterTaps, View
from worker.segmenter.resizing import Packed, unpacked

_PIXELS_AT_ONCE = 1 << 24
"""Of the pictures that are whole at one time; each takes some 20 bytes while it is resized."""


class DevicePrompts:
    """One picture's prompted crops."""

    def __init__(
        self, behind: PromptSource, size: int, device: torch.device, *, at_once: int = _PIXELS_AT_ONCE
    ) -> None:
        """The picture, its outside and the weights of its resize go to the device here, and stay. `at_once` pixels are
        prompted together, and one picture at least.
        """
        height, width = behind.image.shape[:2]
        view = View.of(height, width, size)
        self._prompts, self._shape = behind.prompts, (height, width)
        self._some = max(1, at_once // (height * width))
        self._rows = slice(*view.down(height).read)
        self._across = _Pass.of(view.across(width), 0, device)
        self._down = _Pass.of(view.down(height), self._rows.start, device)
        self._image, self._outside = (self._planes(picture, device) for picture in (behind.image, behind.outside))
        self._red = torch.tensor(RED, dtype=torch.uint8, device=device)[:, None, None]
        self._bits = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=device)
        self._nothing = torch.zeros(0, size, size, 3, dtype=torch.uint8, device=device)

    def crops(self, masks: Sequence[Packed | None]) -> Crops:
        """What g sees of each mask; None shows the picture as it is."""
        starts = range(0, len(masks), self._some)
        return torch.cat([self._nothing, *(self._prompted(masks[start : start + self._some]) for start in starts)])

    def _prompted(self, masks: Sequence[Packed | None]) -> Crops:
        whole = np.full(-(-math.prod(self._shape) // 8), 255, np.uint8)
        shown = self._where([whole if mask is None else mask for mask in masks], self._image, self._outside)
        if set(self._prompts) & set(prompt_outlines.LINES):
            shown = self._where([self._lines(mask) for mask in masks], self._red, shown)
        return self._down(self._across(shown, -1), -2).permute(0, 2, 3, 1).contiguous()

    def _lines(self, mask: Packed | None) -> Packed:
        canvas = np.zeros(self._shape, np.uint8)
        if mask is not None:
            prompt_outlines.draw_outlines(canvas, unpacked(mask, *self._shape), self._prompts, 1)
        return np.packbits(canvas)

    def _where(
        self, bits: Sequence[Packed], inside: UInt8[Tensor, "3 _ _"], outside: UInt8[Tensor, "*b 3 rows w"]
    ) -> UInt8[Tensor, "n 3 rows w"]:
        packed = torch.from_numpy(np.stack(bits)).to(self._bits.device)
        mask = (packed[:, :, None] & self._bits).flatten(1)[:, : math.prod(self._shape)].view(-1, 1, *self._shape)
        return torch.where(mask[:, :, self._rows] != 0, inside, outside)

    def _planes(self, picture: UInt8[np.ndarray, "h w 3"], device: torch.device) -> UInt8[Tensor, "3 rows w"]:
        return torch.from_numpy(np.array(picture[self._rows])).to(device).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class _Pass:
    """One pass of the resize, with the weights on the device. int32 holds all sums, as in Pillow itself."""

    places: Int[Tensor, "k o"]
    weights: Int[Tensor, "k o"]

    @classmethod
    def of(cls, taps: FilterTaps, start: int, device: torch.device) -> "_Pass":
        """For pictures of which the first `start` pixels were left out."""
        places, weights = torch.from_numpy(taps.places - start), torch.from_numpy(taps.weights)
        return cls(places.to(device), weights.to(device, torch.int32))

    def __call__(self, pixels: UInt8[Tensor, "*shape"], dim: int) -> UInt8[Tensor, "*smaller"]:
        shape = [*pixels.shape]
        shape[dim] = self.places.shape[1]
        total = torch.full(shape, 1 << (BITS - 1), dtype=torch.int32, device=pixels.device)
        by_rows = self.weights[:, :, None] if dim == -2 else self.weights  # noqa: PLR2004 - the last dimension but one
        for places, weights in zip(self.places, by_rows, strict=True):
            total += pixels.index_select(dim, places) * weights
        return (total >> BITS).clamp_(0, 255).to(torch.uint8)
