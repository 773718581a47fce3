"""Refining masks of labels by SAM's automatic masks (paper section 3.4), which know borders but no labels.

No torch, because postprocessing uses it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from car.recipe import Mode, Recipe
from car.segmentation import MaskSource
from worker.segmenter.resizing import Image


@dataclass(frozen=True)
class Region:
    """An automatic mask cropped to its box, so that hundreds of them fit into a message. Never empty."""

    top: int
    left: int
    height: int
    width: int
    bits: bytes
    """The box's pixels, row by row, eight to a byte (np.packbits)."""
    area: int
    quality: float
    """The IoU that SAM predicts."""

    @classmethod
    def from_packed_rows(
        cls, bits: UInt8[np.ndarray, "h eighths"], box: tuple[int, int, int, int], quality: float
    ) -> "Region":
        """Make a region of an image's rows, packed separately, and x, y of the mask's first and last pixel."""
        left, top, right, bottom = box
        skipped = left // 8
        rows = np.unpackbits(bits[top : bottom + 1, skipped : right // 8 + 1], axis=1)
        pixels = rows[:, left - 8 * skipped : right + 1 - 8 * skipped]
        height, width = pixels.shape
        return cls(top, left, height, width, np.packbits(pixels).tobytes(), int(np.count_nonzero(pixels)), quality)

    @property
    def pixels(self) -> Bool[np.ndarray, "rows columns"]:
        """The mask within its box."""
        flat = np.unpackbits(np.frombuffer(self.bits, np.uint8), count=self.height * self.width)
        return flat.reshape(self.height, self.width).astype(bool)

    @property
    def slices(self) -> tuple[slice, slice]:
        """The box as an index into the image."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def to_mask(self, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
        """Return the mask of an image of (height, width)."""
        mask = np.zeros(size, bool)
        mask[self.slices] = self.pixels
        return mask


Regions = tuple[Region, ...]

FindRegions = Callable[[Image, Recipe], Regions]
"""Returns SAM's automatic masks of an RGB image of any size by falling quality."""


def ensemble(
    masks: Bool[np.ndarray, "n h w"], regions: Regions, recipe: Recipe
) -> tuple[Bool[np.ndarray, "n h w"], tuple[MaskSource, ...]]:
    """Replace each mask by the union of the regions that match it, if that fits, and return the source of each.

    Empty masks stay empty. If labels share a CRF, their masks stay disjoint: a later label in the order of the queries
    gets the pixels that it shares with an earlier one. Referring expressions may overlap.
    """
    if not regions:
        return masks, (MaskSource.CRF,) * len(masks)
    pixels = [region.pixels for region in regions]
    refined, sources = masks.copy(), []
    for k, mask in enumerate(masks):
        refined[k], source = _refine(mask, regions, pixels, recipe)
        sources.append(source)
    if recipe.mode is Mode.SEMANTIC and MaskSource.SAM in sources:
        covered = np.zeros(masks.shape[1:], bool)
        for k in reversed(range(len(refined))):
            refined[k] &= ~covered
            covered |= refined[k]
    return refined, tuple(sources)


def _refine(
    mask: Bool[np.ndarray, "h w"], regions: Regions, pixels: Sequence[Bool[np.ndarray, "_ _"]], recipe: Recipe
) -> tuple[Bool[np.ndarray, "h w"], MaskSource]:
    if not mask.any():
        return mask, MaskSource.CRF
    iom = intersection_over_minimum(mask, regions, pixels, recipe)
    matched = np.flatnonzero(iom > recipe.iom).tolist() or [int(iom.argmax())]
    union = np.zeros_like(mask)
    for j in matched:
        union[regions[j].slices] |= pixels[j]
    both = np.count_nonzero(union & mask)
    fits = both / np.count_nonzero(union | mask) > recipe.iou
    return (union, MaskSource.SAM) if fits else (mask, MaskSource.CRF)


def intersection_over_minimum(
    mask: Bool[np.ndarray, "h w"], regions: Regions, pixels: Sequence[Bool[np.ndarray, "_ _"]], recipe: Recipe
) -> Float[np.ndarray, " m"]:
    """Return the IoM of a mask with every region, 0..1: the intersection over the smaller area.

    As in the official code a region's own area counts only if it covers at least `sam_min_pred` of the mask: else any
    speck inside the mask would match it.
    """
    both = np.array(
        [np.count_nonzero(mask[region.slices] & bits) for region, bits in zip(regions, pixels, strict=True)]
    )
    of_mask = both / np.count_nonzero(mask)
    of_region = both / np.array([region.area for region in regions])
    return np.maximum(np.where(of_mask < recipe.sam_min_pred, 0.0, of_region), of_mask)
