"""The shapes world: synthetic images with exact ground truth, drawn from a seed.

A scene is one textured background (named after one of CaR's background words) and one to three coloured shapes. The
embedded models are trained, tested and measured on such scenes. `demo.drawing` draws shapes and backgrounds.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import cv2
import numpy as np
from jaxtyping import Int16, UInt8

from demo.drawing import BACKGROUNDS, COLOURS, SHAPES, chance, cover, fill, ground, noisy, outline

WORDS: Final[tuple[str, ...]] = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
"""The vocabulary: 30 colour-shape words, in the order of `demo/labels.txt`."""

LARGEST_HIDDEN: Final = 0.08
"""Largest share of an object that later ones may cover, so that every present object is visible."""

HALF_COVERED: Final = 127
"""A pixel belongs to an object that covers more of it than this, of 255."""

SMALLEST_VISIBLE: Final = 60
"""Pixels. A word with fewer does not count as present."""


class Split(IntEnum):
    """First word of every seed, so that splits have different random streams."""

    TRAIN = 0
    HELD_OUT = 1
    IMAGES = 2
    PRIMING = 3
    REHEARSAL = 4


@dataclass(frozen=True)
class Scene:
    """An image and its ground truth."""

    image: UInt8[np.ndarray, "h w 3"]
    """RGB."""
    labels: Int16[np.ndarray, "h w"]
    """0 background, k the word `WORDS[k - 1]`."""
    words: tuple[str, ...]
    """The present words, in the order of `WORDS`."""
    background: str
    """One of `demo.drawing.BACKGROUNDS`."""


@dataclass(frozen=True)
class SceneStyle:
    """Ranges from which a scene is drawn."""

    objects: tuple[int, int] = (1, 3)
    """Fewest and most objects."""
    radius: tuple[float, float] = (0.12, 0.33)
    """Circumscribed radius as a share of the short side, drawn log-uniformly."""
    overlap: float = 0.35
    """Chance that an object may touch an earlier one."""
    alike: float = 0.0
    """Chance that an object takes the colour of an earlier one, so that only their shapes differ. At 0 the objects of a
    scene have different colours."""


def generator(split: Split, seed: int) -> np.random.Generator:
    """Return the random stream of one seed of one split."""
    return np.random.default_rng([int(split), seed])


def held_out_scenes(count: int, *, seed: int = 0, size: tuple[int, int] = (160, 160)) -> list[Scene]:
    """Draw `count` scenes that no training run has seen; `size` is (width, height)."""
    rng = generator(Split.HELD_OUT, seed)
    return [draw_scene(rng, size=size) for _ in range(count)]


def draw_scene(
    rng: np.random.Generator, *, size: tuple[int, int] = (160, 160), style: SceneStyle | None = None
) -> Scene:
    """Draw a random scene of `size` (width, height)."""
    style = style or SceneStyle()
    width, height = size
    background = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    canvas = ground(rng, background, width, height)
    labels = np.zeros((height, width), np.int16)
    for _ in range(int(rng.integers(style.objects[0], style.objects[1] + 1))):
        _add_object(rng, canvas, labels, style)
    if chance(rng, 0.2):
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 0.8)).astype(np.float32, copy=False)
    image = noisy(rng, canvas, rng.uniform(0.0, 3.0))
    return _finished(image, labels, background)


def _finished(image: UInt8[np.ndarray, "h w 3"], labels: Int16[np.ndarray, "h w"], background: str) -> Scene:
    counts = np.bincount(labels.ravel(), minlength=len(WORDS) + 1)
    for index in np.flatnonzero((counts > 0) & (counts < SMALLEST_VISIBLE)):
        labels[labels == index] = 0
    present = tuple(word for k, word in enumerate(WORDS) if counts[k + 1] >= SMALLEST_VISIBLE)
    return Scene(image=image, labels=labels, words=present, background=background)


def _add_object(
    rng: np.random.Generator, canvas: np.ndarray, labels: Int16[np.ndarray, "h w"], style: SceneStyle
) -> None:
    """Draw one object over canvas and labels, or nothing if 12 tries find no free position."""
    height, width = labels.shape
    short = min(width, height)
    word = int(rng.integers(len(WORDS)))
    word = _recoloured(rng, word, np.flatnonzero(np.bincount(labels.ravel())[1:]), style.alike)
    colour, shape = WORDS[word].split()
    may_touch = chance(rng, style.overlap)
    for _ in range(12):
        radius = short * float(np.exp(rng.uniform(*np.log(style.radius))))
        centre = _position(rng, width, height, radius)
        polygon = outline(rng, shape, centre, radius)
        alpha = cover(polygon, width, height)
        inside = alpha > HALF_COVERED
        if _fits(labels, inside, may_touch=may_touch):
            fill(rng, canvas, colour, alpha, polygon)
            labels[inside] = word + 1
            return


def _recoloured(rng: np.random.Generator, word: int, earlier: np.ndarray, alike: float) -> int:
    """Return the word or another colour of its shape: an earlier object's with chance `alike`, an unused one at 0."""
    used = np.unique(earlier // len(SHAPES))
    colour, shape = divmod(word, len(SHAPES))
    if used.size and alike and chance(rng, alike):
        colour = int(rng.choice(used))
    elif not alike and colour in used:
        colour = int(rng.choice([k for k in range(len(COLOURS)) if k not in used]))
    return colour * len(SHAPES) + shape


def _position(rng: np.random.Generator, width: int, height: int, radius: float) -> tuple[float, float]:
    """Return a centre in the central square, because CLIP's centre crop removes the sides of a wide image.

    A small object is completely inside; a large one may be cut a little by the border.
    """
    short = min(width, height)
    margin = min(0.95 * radius + 2, 0.42 * short)
    x, y = rng.uniform(margin, short - margin, 2)
    return float(x) + (width - short) / 2, float(y) + (height - short) / 2


def _fits(labels: Int16[np.ndarray, "h w"], inside: np.ndarray, *, may_touch: bool) -> bool:
    """Return whether the new object leaves every earlier one at least 1 - LARGEST_HIDDEN visible."""
    covered = labels[inside]
    if inside.sum() < SMALLEST_VISIBLE:
        return False
    if not covered.any():
        return True
    if not may_touch:
        return False
    counts = np.bincount(covered, minlength=len(WORDS) + 1)[1:]
    totals = np.bincount(labels.ravel(), minlength=len(WORDS) + 1)[1:]
    return bool((counts <= LARGEST_HIDDEN * np.maximum(totals, 1)).all())
