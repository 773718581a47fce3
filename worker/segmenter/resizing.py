"""Resizing of images, CAMs and masks. It does not import torch, because postprocessing uses it too."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

Image = UInt8[np.ndarray, "_ _ 3"]
"""The RGB pixels of an image."""
PackedMask = UInt8[np.ndarray, " bytes"]
"""A mask row by row as bits (np.packbits): an eighth of the memory, which matters for a thousand queries."""


def shrink(image: Image, max_side: int) -> Image:
    """Return the image with its longer side at most `max_side`; 0 means no limit."""
    height, width = shrunk_size(image.shape[0], image.shape[1], max_side)
    if (height, width) == image.shape[:2]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def shrunk_size(height: int, width: int, max_side: int) -> tuple[int, int]:
    """Return (height, width) of a shrunk image."""
    scale = max_side / max(height, width)
    if not max_side or scale >= 1:
        return height, width
    return max(1, round(height * scale)), max(1, round(width * scale))


def enlarge(cam: Float[np.ndarray, "rows columns"], height: int, width: int) -> Float[np.ndarray, "h w"]:
    """Return a CAM at the image's size, bilinear (cv2.INTER_LINEAR), float32."""
    return cv2.resize(cam, (width, height), interpolation=cv2.INTER_LINEAR)


def enlarge_mask(mask: Bool[np.ndarray, "h w"], size: tuple[int, int]) -> Bool[np.ndarray, "_ _"]:
    """Return the mask at (height, width) with smooth borders.

    Disjoint masks stay disjoint: a pixel that two masks share half and half belongs to neither.
    """
    if mask.shape == size:
        return mask
    enlarged: Bool[np.ndarray, "_ _"] = cv2.resize(mask.astype(np.float32), size[::-1]) > 0.5  # noqa: PLR2004 - a half
    return enlarged


def unpack_mask(mask: PackedMask, height: int, width: int) -> UInt8[np.ndarray, "h w"]:
    """Return a packed mask as 0 and 1."""
    return np.unpackbits(mask, count=height * width).reshape(height, width)
