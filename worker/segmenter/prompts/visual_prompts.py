"""Visual prompts v: how a mask is shown to the classifier on the picture itself.

All prompts of a recipe go onto one copy of the picture, in the order of car.recipe.VisualPrompt. What stands outside
the mask (blur, gray, black) does not depend on the mask, so it is made once a picture.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from scipy.ndimage import binary_fill_holes

from car.recipe import Arithmetic, Recipe, VisualPrompt

RED = (255, 0, 0)
_BLUR = (15, 15)


@dataclass(frozen=True)
class PromptSource:
    """A picture with its outside view prepared: `outside` is what shows where the mask does not."""

    image: UInt8[np.ndarray, "h w 3"]
    outside: UInt8[np.ndarray, "h w 3"]
    prompts: tuple[VisualPrompt, ...]


def prepare(image: UInt8[np.ndarray, "h w 3"], prompts: tuple[VisualPrompt, ...], recipe: Recipe) -> PromptSource:
    """Prepare an RGB picture for any number of masks."""
    outside = image
    if VisualPrompt.BLUR in prompts:
        outside = cv2.GaussianBlur(outside, _BLUR, 0)
    if VisualPrompt.GRAY in prompts:
        # The official code applies OpenCV's BGR weights to an RGB array.
        code = cv2.COLOR_BGR2GRAY if recipe.gray_weights is Arithmetic.OFFICIAL else cv2.COLOR_RGB2GRAY
        outside = np.repeat(cv2.cvtColor(outside, code)[..., None], 3, axis=2)
    if VisualPrompt.BLACK in prompts:
        outside = np.zeros_like(image)
    return PromptSource(image, outside, prompts)


def apply_prompts(behind: PromptSource, mask: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The picture with the mask prompted. Lines are red, one pixel wide and not antialiased; an empty mask has none."""
    shown = np.where(mask[..., None], behind.image, behind.outside)
    if not mask.any():
        return shown
    if VisualPrompt.CIRCLE in behind.prompts:
        (x, y), (width, height) = _extent(mask)
        cv2.ellipse(shown, (x, y), (width // 2, height // 2), 0, 0, 360, RED, 1)
    if VisualPrompt.RECTANGLE in behind.prompts:
        (x, y), (width, height) = _extent(mask)
        cv2.rectangle(shown, (x - width // 2, y - height // 2), (x + width // 2, y + height // 2), RED, 1)
    if VisualPrompt.CONTOUR in behind.prompts:
        filled = binary_fill_holes(mask).astype(np.uint8)
        contours, _ = cv2.findContours(filled, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(shown, contours, -1, RED, 1)
    return shown


def _extent(mask: Bool[np.ndarray, "h w"]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Centroid (x, y), truncated, and (width, height) of the bounding box."""
    ys, xs = np.nonzero(mask)
    centre = (int(xs.mean()), int(ys.mean()))
    return centre, (int(xs.max() - xs.min()) + 1, int(ys.max() - ys.min()) + 1)
