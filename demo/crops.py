"""Masks like those a CAM yields, good and bad, and pictures prompted with them: what the classifier learns from."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int16, UInt8
from PIL import Image

from demo.drawing import chance
from demo.scenes import WORDS, Scene

PATCH: Final = 16
"""Pixels of one cell of the proposal generator's grid."""

_BLUR_SIZE: Final = (15, 15)
PROMPTS: Final[tuple[tuple[tuple[str, ...], float], ...]] = (
    (("blur", "gray"), 0.82),
    (("blur", "circle"), 0.06),
    (("blur",), 0.04),
    (("gray",), 0.04),
    (("circle",), 0.04),
)
"""Visual prompts and how often each is met."""


@dataclass(frozen=True)
class Crop:
    """One prompted picture, the word it should be called and the mask it was made from."""

    image: UInt8[np.ndarray, "s s 3"]
    target: Float32[np.ndarray, " words"]
    """Distribution over `WORDS`; flat where the mask shows no object."""
    visible: Int16[np.ndarray, "s s"]
    """Ground truth inside the mask, 0 outside, framed as the image."""


def random_mask(rng: np.random.Generator, labels: np.ndarray) -> Bool[np.ndarray, "h w"]:
    """Mostly the mask of a word that is present, as CAMs blur it; sometimes two words, a part, or plain background."""
    present = np.unique(labels[labels > 0])
    if len(present) == 0 or chance(rng, 0.12):
        return _blob(rng, labels.shape)
    wanted = rng.permutation(present)[: 2 if chance(rng, 0.14) else 1]
    exact = np.isin(labels, wanted)
    if chance(rng, 0.3):
        return _reshaped(rng, exact)
    return _coarse(rng, exact, labels)


def _blob(rng: np.random.Generator, shape: tuple[int, ...]) -> Bool[np.ndarray, "h w"]:
    """A smooth random region anywhere, at times most of the picture."""
    small = rng.standard_normal((int(rng.integers(3, 9)), int(rng.integers(3, 9)))).astype(np.float32)
    relief = cv2.resize(small, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray(relief > np.quantile(relief, rng.uniform(0.3, 0.97)))


def _reshaped(rng: np.random.Generator, exact: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Grown, shrunk or shifted by a few pixels."""
    size = int(rng.integers(1, 14))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    change = cv2.dilate if chance(rng, 0.65) else cv2.erode
    mask = change(exact.astype(np.uint8), kernel)
    mask = np.roll(mask, tuple(rng.integers(-5, 6, 2)), (0, 1))
    return np.asarray(mask if mask.any() else exact, bool)


def _coarse(rng: np.random.Generator, exact: Bool[np.ndarray, "h w"], labels: np.ndarray) -> Bool[np.ndarray, "h w"]:
    """The mask as a CAM shows it: cells of one patch, smeared, with false alarms on other objects, thresholded."""
    height, width = exact.shape
    grid = (max(2, round(width / PATCH)), max(2, round(height / PATCH)))
    cells: np.ndarray = cv2.resize(exact.astype(np.float32), grid, interpolation=cv2.INTER_AREA)
    cells = cells / np.float32(max(float(cells.max()), 0.05))
    if chance(rng, 0.35):
        others = cv2.resize(((labels > 0) & ~exact).astype(np.float32), grid, interpolation=cv2.INTER_AREA)
        cells = cells + others * np.float32(rng.uniform(0.1, 0.8))
    if chance(rng, 0.6):
        smeared = cv2.GaussianBlur(cells, (0, 0), rng.uniform(0.3, 1.0))
        cells = cells + np.float32(rng.uniform(0.2, 1.0)) * (smeared - cells)
    cells = cells + np.float32(rng.uniform(0, 0.15)) * rng.standard_normal(grid[::-1], np.float32)
    cells = (cells - cells.min()) / max(float(np.ptp(cells)), 1e-6)
    full = cv2.resize(cells, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(full > rng.uniform(0.3, 0.7))


def crop_target(labels: np.ndarray, mask: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, " words"]:
    """What a mask shows: words weighed by visible pixels times the share of the word inside; flat if nearly nothing."""
    totals = np.bincount(labels.ravel(), minlength=len(WORDS) + 1)[1:]
    inside = np.bincount(labels[mask], minlength=len(WORDS) + 1)[1:]
    share = inside / np.maximum(totals, 1)
    weight = inside * share**2
    flat = np.full(len(WORDS), 1 / len(WORDS))
    certainty = float(np.clip((share.max() - 0.1) / 0.2, 0, 1))
    if certainty == 0:
        return flat.astype(np.float32)
    return np.asarray(certainty * weight / weight.sum() + (1 - certainty) * flat, np.float32)


def prompted(
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"], prompts: tuple[str, ...]
) -> UInt8[np.ndarray, "h w 3"]:
    """CaR's visual prompts, in its fixed order: blur, gray, circle."""
    shown = image
    if "blur" in prompts:
        shown = np.where(mask[..., None], shown, cv2.GaussianBlur(shown, _BLUR_SIZE, 0))
    if "gray" in prompts:
        # CaR applies the weights of BGR to RGB.
        gray = cv2.cvtColor(shown, cv2.COLOR_BGR2GRAY)[..., None]
        shown = np.where(mask[..., None], shown, gray)
    if "circle" in prompts and mask.any():
        y, x = np.nonzero(mask)
        _, _, w, h = cv2.boundingRect(mask.astype(np.uint8))
        shown = shown.copy()
        cv2.ellipse(shown, (int(x.mean()), int(y.mean())), (w // 2, h // 2), 0, 0, 360, (255, 0, 0), 1)
    return shown


def fitted(image: np.ndarray, size: int, method: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
    """CLIP's preprocessing: short side to `size`, bicubic, then the central square."""
    height, width = image.shape[:2]
    scale = size / min(width, height)
    wide, high = max(size, int(width * scale)), max(size, int(height * scale))
    resized = np.asarray(Image.fromarray(image).resize((wide, high), method))
    top, left = (high - size) // 2, (wide - size) // 2
    return resized[top : top + size, left : left + size]


def draw_crop(rng: np.random.Generator, scene: Scene, size: int) -> Crop:
    """One random mask of a scene, prompted."""
    return _crop(scene, random_mask(rng, scene.labels), random_prompts(rng), size)


def whole_crop(scene: Scene, size: int) -> Crop:
    """The picture without any prompt: every object is shown."""
    return _crop(scene, np.ones(scene.labels.shape, bool), (), size)


def random_prompts(rng: np.random.Generator) -> tuple[str, ...]:
    kinds, chances = zip(*PROMPTS, strict=True)
    chosen: tuple[str, ...] = kinds[rng.choice(len(kinds), p=chances)]
    return chosen


def _crop(scene: Scene, mask: Bool[np.ndarray, "h w"], prompts: tuple[str, ...], size: int) -> Crop:
    image = fitted(prompted(scene.image, mask, prompts), size)
    visible = fitted(np.where(mask, scene.labels, 0).astype(np.uint8), size, Image.Resampling.NEAREST)
    return Crop(image=image, target=crop_target(scene.labels, mask), visible=visible.astype(np.int16))
