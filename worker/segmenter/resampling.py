"""CLIP's crop of an image: its geometry, and the integer weights of Pillow's bicubic resize.

Pillow resizes bytes in two passes of fixed-point sums, horizontal first, each rounded to bytes. A pass treats all rows
(columns) alike and independently, so parts of an image may be resized separately, on any device, to the same bits.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int
from PIL import Image

BITS = 22
"""Binary places of a weight: Pillow's PRECISION_BITS."""
_SUPPORT = 2.0
"""Reach of the bicubic filter to each side, in pixels of the coarser of the two images."""


@dataclass(frozen=True)
class CropView:
    """The centre square of `size` pixels of an image whose short side was resized to `size`."""

    resized: tuple[int, int]
    """(width, height) of the whole image after the resize."""
    left: int
    top: int
    size: int

    @classmethod
    def for_image(cls, height: int, width: int, size: int) -> "CropView":
        short = min(height, width)
        resized = (size * width // short, size * height // short)
        return cls(resized, round((resized[0] - size) / 2.0), round((resized[1] - size) / 2.0), size)


@dataclass(frozen=True)
class FilterTaps:
    """One pass: pixel o is the sum over k of weights[k, o] / 2^22 times the input pixel at positions[k, o]."""

    positions: Int[np.ndarray, "k o"]
    weights: Int[np.ndarray, "k o"]

    @property
    def input_range(self) -> tuple[int, int]:
        """The input pixels `start`..`stop`-1 that the pass reads."""
        return int(self.positions.min()), int(self.positions.max()) + 1


@lru_cache(maxsize=64)
def filter_taps(length: int, resized: int, start: int, count: int) -> FilterTaps:
    """Return the pass that turns `length` pixels into `resized`, for `count` output pixels from `start` on.

    The weights are read off Pillow's own output, so they equal its weights to the last bit wherever it was compiled: it
    resizes combs of integers 2^22 whose teeth are too far apart for one output pixel to see two of them.
    """
    scale = length / resized
    support = _SUPPORT * max(scale, 1.0)
    spacing = 2 * math.ceil(support) + 3
    teeth, outputs = np.arange(length), np.arange(resized)
    combs = np.zeros((spacing, length), np.int32)
    combs[teeth % spacing, teeth] = 1 << BITS
    responses = np.asarray(Image.fromarray(combs).resize((resized, spacing), Image.Resampling.BICUBIC))
    positions = np.floor((outputs + 0.5) * scale - support).astype(np.int64) - 1 + np.arange(spacing)[:, None]
    inside = (positions >= 0) & (positions < length)
    weights = np.where(inside, responses[positions % spacing, outputs], 0)
    used = np.flatnonzero(weights.any(1))
    part = slice(used[0], used[-1] + 1), slice(start, start + count)
    return FilterTaps(positions[part].clip(0, length - 1), weights[part])
