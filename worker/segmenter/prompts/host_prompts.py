"""Prompted crops made on the host: visual_prompts.show and classifier.crop, of which only what a mask changes is done.

Where neither a mask nor its lines reach, a prompted picture is its outside, and so is what comes of it: rows for the
first pass of the resize, columns for the second.
"""

from collections.abc import Sequence
from functools import cached_property

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from worker.segmenter import classifier
from worker.segmenter.classifier import Crops
from worker.segmenter.prompts import prompt_outlines
from worker.segmenter.prompts.visual_prompts import RED, PromptSource
from worker.segmenter.resampling import View
from worker.segmenter.resizing import Packed, unpacked


class HostPrompts:
    """One picture's prompted crops."""

    def __init__(self, behind: PromptSource, size: int) -> None:
        height, width = behind.image.shape[:2]
        self._behind, self._size, self._view = behind, size, View.of(height, width, size)
        self._across, self._rows = self._view.across(width), self._view.down(height).read

    def crops(self, masks: Sequence[Packed | None]) -> Crops:
        """What g sees of each mask; None shows the picture as it is."""
        crops = np.empty((len(masks), self._size, self._size, 3), np.uint8)
        for crop, mask in zip(crops, masks, strict=True):
            if mask is None:
                crop[:] = classifier.crop(self._behind.image, self._size)
            else:
                self._prompt(mask, crop)
        return torch.from_numpy(crops)

    def _prompt(self, packed: Packed, crop: UInt8[np.ndarray, "size size 3"]) -> None:
        height, width = self._behind.image.shape[:2]
        mask = unpacked(packed, height, width)
        shown = self._behind.outside.copy()
        cv2.copyTo(self._behind.image, mask, shown)
        left, top, right, bottom = prompt_outlines.draw_outlines(shown, mask, self._behind.prompts, RED)
        first, last = self._across.reached(left, right)
        top, bottom = max(top, self._rows[0]), min(bottom, self._rows[1])
        crop[:] = self._outside[1]
        if first >= last or top >= bottom:
            return
        narrow = self._outside[0][:, first:last].copy()
        to, start = self._view.to, self._view.left
        narrow[top:bottom] = _resize(shown[top:bottom], to[0], bottom - top)[:, start + first : start + last]
        resized = _resize(narrow, last - first, to[1])
        crop[:, first:last] = resized[self._view.top : self._view.top + self._size]

    @cached_property
    def _outside(self) -> tuple[UInt8[np.ndarray, "h size 3"], UInt8[np.ndarray, "size size 3"]]:
        """The outside after the first pass and after both."""
        outside, view = self._behind.outside, self._view
        narrow = _resize(outside, view.to[0], len(outside))[:, view.left : view.left + view.size]
        return narrow, _resize(narrow, view.size, view.to[1])[view.top : view.top + view.size]


def _resize(image: UInt8[np.ndarray, "h w 3"], width: int, height: int) -> UInt8[np.ndarray, "_ _ 3"]:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
