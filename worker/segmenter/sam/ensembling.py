"""Masks of words made sharper by SAM's automatic masks (paper section 3.4), which know borders but no words.

No torch: it runs where pictures are finished.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from car.recipe import Mode, Recipe
from car.segmentation import MaskSource
from worker.segmenter.resizing import Image


@dataclass(frozen=True)
class Region:
    """One automatic mask, cut to its box so that hundreds of them fit into a message between processes. Never empty."""

    top: int
    left: int
    height: int
    width: int
    bits: bytes
    """The box's pixels, row by row, eight to a byte (np.packbits)."""
    area: int
    quality: float
    """The IoU that SAM predicts of it."""

    @classmethod
    def of(cls, mask: Bool[np.ndarray, "h w"], quality: float) -> "Region":
        """Of a mask that is not empty."""
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        box = int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])
        return cls._cut(mask[box[1] : box[3] + 1, box[0] : box[2] + 1], box, quality)

    @classmethod
    def unpacked(cls, bits: UInt8[np.ndarray, "h eighths"], box: tuple[int, int, int, int], quality: float) -> "Region":
        """Of a picture's rows, each packed by itself, and x, y of the mask's first and last pixel."""
        first, top, last, bottom = box
        skipped = first // 8
        near = np.unpackbits(bits[top : bottom + 1, skipped : last // 8 + 1], axis=1)
        return cls._cut(near[:, first - 8 * skipped : last + 1 - 8 * skipped], box, quality)

    @classmethod
    def _cut(cls, cut: Shaped[np.ndarray, "rows columns"], box: tuple[int, int, int, int], quality: float) -> "Region":
        left, top, _, _ = box
        height, width = cut.shape
        return cls(top, left, height, width, np.packbits(cut).tobytes(), int(np.count_nonzero(cut)), quality)

    @property
    def pixels(self) -> Bool[np.ndarray, "rows columns"]:
        """Of the box."""
        flat = np.unpackbits(np.frombuffer(self.bits, np.uint8), count=self.height * self.width)
        return flat.reshape(self.height, self.width).astype(bool)

    @property
    def box(self) -> tuple[slice, slice]:
        """Where the pixels lie in the picture."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def whole(self, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
        """In a picture of (height, width)."""
        mask = np.zeros(size, bool)
        mask[self.box] = self.pixels
        return mask


Regions = tuple[Region, ...]

FindRegions = Callable[[Image, Recipe], Regions]
"""SAM's automatic masks of an RGB picture of any size, in the order of falling quality."""


def ensemble(
    masks: Bool[np.ndarray, "n h w"], regions: Regions, recipe: Recipe
) -> tuple[Bool[np.ndarray, "n h w"], tuple[MaskSource, ...]]:
    """Each word's mask or, where that fits, the union of the regions that match it, and which of the two it is.

    Empty masks stay empty. Where words share a CRF their masks are painted in the order of the queries, so that they
    stay disjoint: a later word takes the pixels it shares with an earlier one. Referring expressions may overlap.
    """
    if not regions:
        return masks, (MaskSource.CRF,) * len(masks)
    shown = [region.pixels for region in regions]
    found, sources = masks.copy(), []
    for k, mask in enumerate(masks):
        found[k], source = _refined(mask, regions, shown, recipe)
        sources.append(source)
    if recipe.mode is Mode.SEMANTIC and MaskSource.SAM in sources:
        taken = np.zeros(masks.shape[1:], bool)
        for k in reversed(range(len(found))):
            found[k] &= ~taken
            taken |= found[k]
    return found, tuple(sources)


def _refined(
    mask: Bool[np.ndarray, "h w"], regions: Regions, shown: Sequence[Bool[np.ndarray, "_ _"]], recipe: Recipe
) -> tuple[Bool[np.ndarray, "h w"], MaskSource]:
    if not mask.any():
        return mask, MaskSource.CRF
    iom = intersection_over_minimum(mask, regions, shown, recipe)
    matched = np.flatnonzero(iom > recipe.iom).tolist() or [int(iom.argmax())]
    union = np.zeros_like(mask)
    for j in matched:
        union[regions[j].box] |= shown[j]
    both = np.count_nonzero(union & mask)
    fits = both / np.count_nonzero(union | mask) > recipe.iou
    return (union, MaskSource.SAM) if fits else (mask, MaskSource.CRF)


def intersection_over_minimum(
    mask: Bool[np.ndarray, "h w"], regions: Regions, shown: Sequence[Bool[np.ndarray, "_ _"]], recipe: Recipe
) -> Float[np.ndarray, " m"]:
    """IoM of a mask with every region, 0..1: the intersection over the smaller area.

    As in the official code a region counts by its own area only where it holds at least `sam_min_pred` of the mask:
    else any speck within the mask would match it.
    """
    both = np.array([np.count_nonzero(mask[one.box] & pixels) for one, pixels in zip(regions, shown, strict=True)])
    of_mask = both / np.count_nonzero(mask)
    of_region = both / np.array([region.area for region in regions])
    return np.maximum(np.where(of_mask < recipe.sam_min_pred, 0.0, of_region), of_mask)
