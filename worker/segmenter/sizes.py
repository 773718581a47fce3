"""The sizes a picture, its CAMs and its masks pass through. No torch: finishing needs it too."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

Image = UInt8[np.ndarray, "_ _ 3"]


def shrunk(image: Image, max_side: int) -> Image:
    """The picture with its longer side at most `max_side`; 0 leaves it as it is."""
    height, width = image.shape[:2]
    share = max_side / max(height, width)
    if not max_side or share >= 1:
        return image
    to = (max(1, round(width * share)), max(1, round(height * share)))
    return cv2.resize(image, to, interpolation=cv2.INTER_AREA)


def enlarge(cam: Float[np.ndarray, "rows columns"], height: int, width: int) -> Float[np.ndarray, "h w"]:
    """A CAM at the picture's own size, bilinear (cv2.INTER_LINEAR), float32."""
    return cv2.resize(cam, (width, height), interpolation=cv2.INTER_LINEAR)


def enlarge_mask(mask: Bool[np.ndarray, "h w"], size: tuple[int, int]) -> Bool[np.ndarray, "_ _"]:
    """The mask at (height, width), with smooth borders; disjoint masks stay disjoint, as none takes a half."""
    if mask.shape == size:
        return mask
    whole: Bool[np.ndarray, "_ _"] = cv2.resize(mask.astype(np.float32), size[::-1]) > 0.5  # noqa: PLR2004 - a half
    return whole
