"""The red lines of the circle, rectangle and contour prompts, drawn fast: the pixels of visual_prompts.show."""

import cv2
import numpy as np
from jaxtyping import UInt8

from car.recipe import VisualPrompt

LINES = (VisualPrompt.CIRCLE, VisualPrompt.RECTANGLE, VisualPrompt.CONTOUR)

Box = tuple[int, int, int, int]
"""Left, top, right, bottom; the last two are beyond it."""


def draw_outlines(
    canvas: UInt8[np.ndarray, "h w *c"],
    mask: UInt8[np.ndarray, "h w"],
    prompts: tuple[VisualPrompt, ...],
    colour: int | tuple[int, int, int],
) -> Box:
    """Draw a mask's lines (0 and 1) onto the canvas. Returns what of it the mask and they can touch; all 0 if nothing.

    Nothing is cut to the mask's box first: OpenCV clips a line before it walks it, so on a smaller canvas another pixel
    might be its.
    """
    x, y, width, height = cv2.boundingRect(mask)
    left, top, right, bottom = x, y, x + width, y + height
    if not width or not set(prompts) & set(LINES):
        return left, top, right, bottom
    if VisualPrompt.CIRCLE in prompts or VisualPrompt.RECTANGLE in prompts:
        cx, cy = _centroid(mask[y : y + height, x : x + width])
        cx, cy, half_w, half_h = cx + x, cy + y, width // 2, height // 2
        if VisualPrompt.CIRCLE in prompts:
            cv2.ellipse(canvas, (cx, cy), (half_w, half_h), 0, 0, 360, colour, 1)
        if VisualPrompt.RECTANGLE in prompts:
            cv2.rectangle(canvas, (cx - half_w, cy - half_h), (cx + half_w, cy + half_h), colour, 1)
        left, top = max(0, min(left, cx - half_w - 1)), max(0, min(top, cy - half_h - 1))
        right = min(mask.shape[1], max(right, cx + half_w + 2))
        bottom = min(mask.shape[0], max(bottom, cy + half_h + 2))
    if VisualPrompt.CONTOUR in prompts:
        # Outer borders alone are what is left of all borders once holes are filled.
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(canvas, contours, -1, colour, 1)
    return left, top, right, bottom


def _centroid(mask: UInt8[np.ndarray, "h w"]) -> tuple[int, int]:
    """(x, y), truncated."""
    columns = cv2.reduce(mask, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[0].astype(np.int64)
    rows = cv2.reduce(mask, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[:, 0].astype(np.int64)
    pixels = int(rows.sum())
    return int(columns @ np.arange(len(columns))) // pixels, int(rows @ np.arange(len(rows))) // pixels
