"""How CLIP's own view of a picture comes about: its size, and what Pillow's bicubic resize weighs, in whole numbers.

Pillow resizes bytes in two passes of fixed-point sums, rows first, each rounded to bytes. A pass treats every row
(column) by itself and by the same weights, so parts of a picture may be resized alone, and anywhere, to the same bits.
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
"""Reach of the bicubic filter to each side, in pixels of the coarser of the two pictures."""


@dataclass(frozen=True)
class View:
    """The centre square of `size` pixels, cut out of a picture whose short side became `size`."""

    to: tuple[int, int]
    """(width, height) of the whole picture when resized."""
    left: int
    top: int
    size: int

    @classmethod
    def of(cls, height: int, width: int, size: int) -> "View":
        short = min(height, width)
        to = (size * width // short, size * height // short)
        return cls(to, round((to[0] - size) / 2.0), round((to[1] - size) / 2.0), size)

    def across(self, width: int) -> "FilterTaps":
        """The pass along rows, of a picture so wide, as far as the square needs it."""
        return taps(width, self.to[0]).part(self.left, self.left + self.size)

    def down(self, height: int) -> "FilterTaps":
        """The pass along columns."""
        return taps(height, self.to[1]).part(self.top, self.top + self.size)


@dataclass(frozen=True)
class FilterTaps:
    """One pass: pixel o becomes the sum over k of weights[k, o] times the pixel at places[k, o], in 1 / 2^22."""

    places: Int[np.ndarray, "k o"]
    weights: Int[np.ndarray, "k o"]

    def part(self, start: int, stop: int) -> "FilterTaps":
        """The pass for pixels `start`..`stop`-1 of what comes out."""
        return FilterTaps(self.places[:, start:stop], self.weights[:, start:stop])

    def reached(self, start: int, stop: int) -> tuple[int, int]:
        """From where to where, in what comes out, pixels `start`..`stop`-1 of what goes in may be seen."""
        return int(np.searchsorted(self.places[-1], start)), int(np.searchsorted(self.places[0], stop))

    @property
    def read(self) -> tuple[int, int]:
        """From where to where this reads."""
        return int(self.places.min()), int(self.places.max()) + 1


@lru_cache(maxsize=64)
def taps(length: int, to: int) -> FilterTaps:
    """The pass that turns `length` pixels into `to`.

    The weights are asked of Pillow itself, so that they are its own to the last bit wherever it was compiled: it
    resizes combs of whole numbers 2^22 whose teeth stand too far apart for one pixel to see two.
    """
    scale = length / to
    support = _SUPPORT * max(scale, 1.0)
    apart = 2 * math.ceil(support) + 3
    tooth, out = np.arange(length), np.arange(to)
    combs = np.zeros((apart, length), np.int32)
    combs[tooth % apart, tooth] = 1 << BITS
    seen = np.asarray(Image.fromarray(combs).resize((to, apart), Image.Resampling.BICUBIC))
    places = np.floor((out + 0.5) * scale - support).astype(np.int64) - 1 + np.arange(apart)[:, None]
    weights = np.where((places >= 0) & (places < length), seen[places % apart, out], 0)
    used = np.flatnonzero(weights.any(1))
    kept = slice(used[0], used[-1] + 1)
    return FilterTaps(places[kept].clip(0, length - 1), weights[kept])
