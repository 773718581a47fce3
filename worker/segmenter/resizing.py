"""The sizes a picture, its CAMs and its masks pass through. No torch: finishing needs it too."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

Image = UInt8[np.ndarray, "_ _ 3"]
Packed = UInt8[np.ndarray, " bytes"]
"""A mask row by row as bits (np.packbits): an eighth of the memory, which a thousand words need."""


def shrunk(image: Image, max_side: int) -> Image:
    """The picture with its longer side at most `max_side`; 0 leaves it as it is."""
    height, width = shrunk_size(image.shape[0], image.shape[1], max_side)
    if (height, width) == image.shape[:2]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def shrunk_size(height: int, width: int, max_side: int) -> tuple[int, int]:
    """(height, width) of such a picture."""
    share = max_side / max(height, width)
    if not max_side or share >= 1:
        return height, width
    return max(1, round(height * share)), max(1, round(width * share))


def enlarge(cam: Float[np.ndarray, "rows columns"], height: int, width: int) -> Float[np.ndarray, "h w"]:
    """A CAM at the picture's own size, bilinear (cv2.INTER_LINEAR), float32."""
    return cv2.resize(cam, (width, height), interpolation=cv2.INTER_LINEAR)


def enlarge_mask(mask: Bool[np.ndarray, "h w"], size: tuple[int, int]) -> Bool[np.ndarray, "_ _"]:
    """The mask at (height, width), with smooth borders; disjoint masks stay disjoint, as none takes a half."""
    if mask.shape == size:
        return mask
    whole: Bool[np.ndarray, "_ _"] = cv2.resize(mask.astype(np.float32), size[::-1]) > 0.5  # noqa: PLR2004 - a half
    return whole


def unpacked(mask: Packed, height: int, width: int) -> UInt8[np.ndarray, "h w"]:
    """A packed mask of that size, as 0 and 1."""
    return np.unpackbits(mask, count=height * width).reshape(height, width)
