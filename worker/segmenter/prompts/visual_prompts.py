"""Visual prompts v: how a mask is shown to the classifier on the image itself.

All prompts of a recipe are drawn on one copy of the image, in the order of car.recipe.VisualPrompt. The outside of a
mask (blur, gray, black) does not depend on the mask, so it is computed once per image. No torch.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from car.recipe import Arithmetic, Recipe, VisualPrompt

RED = (255, 0, 0)
OUTLINES = frozenset({VisualPrompt.CIRCLE, VisualPrompt.RECTANGLE, VisualPrompt.CONTOUR})
_BLUR = (15, 15)


@dataclass(frozen=True)
class PromptSource:
    """An image, and `outside`: what is shown of it outside a mask."""

    image: UInt8[np.ndarray, "h w 3"]
    outside: UInt8[np.ndarray, "h w 3"]
    prompts: tuple[VisualPrompt, ...]


def prepare(image: UInt8[np.ndarray, "h w 3"], prompts: tuple[VisualPrompt, ...], recipe: Recipe) -> PromptSource:
    """Prepare an RGB image for any number of masks."""
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


def apply_prompts(
    source: PromptSource, mask: Bool[np.ndarray, "h w"] | UInt8[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Return a copy of the image with the mask (False/True or 0/1) prompted."""
    pixels, bits = source.outside.copy(), mask.astype(np.uint8)
    cv2.copyTo(source.image, bits, pixels)
    draw_outlines(pixels, bits, source.prompts, RED)
    return pixels


def draw_outlines(
    canvas: UInt8[np.ndarray, "h w *c"],
    mask: UInt8[np.ndarray, "h w"],
    prompts: tuple[VisualPrompt, ...],
    color: int | tuple[int, int, int],
) -> None:
    """Draw the outlines of a mask (0/1), one pixel wide and not antialiased. An empty mask has none.

    The canvas must have the image's size: OpenCV clips a line before it walks it, so a smaller canvas may get other
    pixels.
    """
    x, y, width, height = cv2.boundingRect(mask)
    if not width or OUTLINES.isdisjoint(prompts):
        return
    if VisualPrompt.CIRCLE in prompts or VisualPrompt.RECTANGLE in prompts:
        cx, cy = _centroid(mask[y : y + height, x : x + width])
        cx, cy, half_w, half_h = cx + x, cy + y, width // 2, height // 2
        if VisualPrompt.CIRCLE in prompts:
            cv2.ellipse(canvas, (cx, cy), (half_w, half_h), 0, 0, 360, color, 1)
        if VisualPrompt.RECTANGLE in prompts:
            cv2.rectangle(canvas, (cx - half_w, cy - half_h), (cx + half_w, cy + half_h), color, 1)
    if VisualPrompt.CONTOUR in prompts:
        # The outer borders alone: the official code fills holes first and then draws all borders, which is the same.
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(canvas, contours, -1, color, 1)


def _centroid(mask: UInt8[np.ndarray, "h w"]) -> tuple[int, int]:
    """Return (x, y), truncated."""
    columns = cv2.reduce(mask, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[0].astype(np.int64)
    rows = cv2.reduce(mask, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[:, 0].astype(np.int64)
    pixels = int(rows.sum())
    return int(columns @ np.arange(len(columns))) // pixels, int(rows @ np.arange(len(rows))) // pixels
