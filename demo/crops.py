"""Training data of the classifier: masks like those of CAMs, good and bad, and images prompted with them."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int16, UInt8

from car.recipe import Recipe, VisualPrompt
from demo.drawing import chance
from demo.scenes import WORDS, Scene
from worker.segmenter.classifier import crop
from worker.segmenter.prompts.visual_prompts import apply_prompts, prepare

PATCH: Final = 16
"""Pixels of one cell of the proposal generator's grid."""

_BLUR, _GRAY, _CIRCLE = VisualPrompt.BLUR, VisualPrompt.GRAY, VisualPrompt.CIRCLE
PROMPTS: Final[tuple[tuple[tuple[VisualPrompt, ...], float], ...]] = (
    ((_BLUR, _GRAY), 0.3),
    ((_BLUR, _CIRCLE), 0.04),
    ((_BLUR,), 0.02),
    ((_GRAY,), 0.62),
    ((_CIRCLE,), 0.02),
)
"""Visual prompts and their probabilities."""


@dataclass(frozen=True)
class Crop:
    """One prompted image, its target and its ground truth inside the mask."""

    image: UInt8[np.ndarray, "s s 3"]
    target: Float32[np.ndarray, " words"]
    """Distribution over `WORDS`; flat where the mask shows no object."""
    visible: Int16[np.ndarray, "s s"]
    """Ground truth inside the mask, 0 outside, framed as the image."""


def random_mask(rng: np.random.Generator, labels: np.ndarray) -> Bool[np.ndarray, "h w"]:
    """Draw a mask: mostly of a present word, blurred as CAMs are; sometimes of two words, a part, or background."""
    present = np.unique(labels[labels > 0])
    if len(present) == 0 or chance(rng, 0.08):
        return _blob(rng, labels.shape)
    exact = np.isin(labels, rng.permutation(present)[: 2 if chance(rng, 0.1) else 1])
    if chance(rng, 0.3):
        return _reshaped(rng, exact)
    return _coarse(rng, exact, labels)


def _blob(rng: np.random.Generator, shape: tuple[int, ...]) -> Bool[np.ndarray, "h w"]:
    """Draw a smooth random region of up to most of the image."""
    small = rng.standard_normal((int(rng.integers(3, 9)), int(rng.integers(3, 9)))).astype(np.float32)
    relief = cv2.resize(small, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray(relief > np.quantile(relief, rng.uniform(0.3, 0.97)))


def _reshaped(rng: np.random.Generator, exact: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Grow, shrink or shift the mask by a few pixels."""
    size = int(rng.integers(1, 10))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    change = cv2.dilate if chance(rng, 0.7) else cv2.erode
    mask = change(exact.astype(np.uint8), kernel)
    mask = np.roll(mask, tuple(rng.integers(-5, 6, 2)), (0, 1))
    return np.asarray(mask if mask.any() else exact, bool)


def _coarse(rng: np.random.Generator, exact: Bool[np.ndarray, "h w"], labels: np.ndarray) -> Bool[np.ndarray, "h w"]:
    """Return the mask as a CAM gives it: cells of one patch, blurred, with false positives, thresholded."""
    height, width = exact.shape
    grid = (max(2, round(width / PATCH)), max(2, round(height / PATCH)))
    cells: np.ndarray = cv2.resize(exact.astype(np.float32), grid, interpolation=cv2.INTER_AREA)
    cells = cells / np.float32(max(float(cells.max()), 0.05))
    if chance(rng, 0.25):
        others = cv2.resize(((labels > 0) & ~exact).astype(np.float32), grid, interpolation=cv2.INTER_AREA)
        cells = cells + others * np.float32(rng.uniform(0.1, 0.7))
    if chance(rng, 0.6):
        smeared = cv2.GaussianBlur(cells, (0, 0), rng.uniform(0.3, 1.0))
        cells = cells + np.float32(rng.uniform(0.2, 1.0)) * (smeared - cells)
    cells = cells + np.float32(rng.uniform(0, 0.1)) * rng.standard_normal(grid[::-1], np.float32)
    cells = (cells - cells.min()) / max(float(np.ptp(cells)), 1e-6)
    full = cv2.resize(cells, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(full > rng.uniform(0.12, 0.45))


def crop_target(labels: np.ndarray, mask: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, " words"]:
    """Return words weighted by their pixels in the mask times their squared share inside; flat if nearly none."""
    totals = np.bincount(labels.ravel(), minlength=len(WORDS) + 1)[1:]
    inside = np.bincount(labels[mask], minlength=len(WORDS) + 1)[1:]
    share = inside / np.maximum(totals, 1)
    weight = inside * share**2
    flat = np.full(len(WORDS), 1 / len(WORDS))
    certainty = float(np.clip((share.max() - 0.1) / 0.2, 0, 1))
    if certainty == 0:
        return flat.astype(np.float32)
    return np.asarray(certainty * weight / weight.sum() + (1 - certainty) * flat, np.float32)


def draw_crop(rng: np.random.Generator, scene: Scene, size: int) -> Crop:
    """Draw a random mask of a scene and prompt the image with it."""
    return crop_of(scene, random_mask(rng, scene.labels), random_prompts(rng), size)


def random_prompts(rng: np.random.Generator) -> tuple[VisualPrompt, ...]:
    kinds, chances = zip(*PROMPTS, strict=True)
    chosen: tuple[VisualPrompt, ...] = kinds[rng.choice(len(kinds), p=chances)]
    return chosen


def crop_of(scene: Scene, mask: Bool[np.ndarray, "h w"], prompts: tuple[VisualPrompt, ...], size: int) -> Crop:
    prompted = apply_prompts(prepare(scene.image, prompts, Recipe()), mask)
    inside = np.where(mask, scene.labels, 0)
    return Crop(image=crop(prompted, size), target=crop_target(scene.labels, mask), visible=framed(inside, size))


def framed(labels: np.ndarray, size: int) -> Int16[np.ndarray, "s s"]:
    """Resize and center-crop a label map like its image."""
    height, width = labels.shape
    short = min(height, width)
    resized_size = (size * width // short, size * height // short)
    left, top = round((resized_size[0] - size) / 2), round((resized_size[1] - size) / 2)
    resized = cv2.resize(labels, resized_size, interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized[top : top + size, left : left + size], np.int16)
