"""The shapes world: synthetic pictures with exact ground truth, drawn from a seed.

A scene is one textured background (named after one of CaR's background words) and one to three coloured shapes.
Everything that trains, tests and measures the embedded models comes from here. `demo.drawing` draws shapes and grounds.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from jaxtyping import Int16, UInt8

from demo.drawing import BACKGROUNDS, COLOURS, SHAPES, blurred, chance, cover, fill, ground, noisy, outline

WORDS: Final[tuple[str, ...]] = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
"""The vocabulary: 30 colour-shape words, in the order of `demo/labels.txt`."""

LARGEST_HIDDEN: Final = 0.08
"""At most this share of an object may lie under later ones, so that nothing that is present is invisible."""

HALF_COVERED: Final = 127
"""A pixel belongs to an object that covers more of it than this, of 255."""

SMALLEST_VISIBLE: Final = 60
"""Pixels. A word that shows less is not counted as present."""


class Split(IntEnum):
    """First word of every seed: the random streams of different splits never meet."""

    TRAIN = 0
    HELD_OUT = 1
    PICTURES = 2
    PRIMING = 3
    REHEARSAL = 4


@dataclass(frozen=True)
class Scene:
    """One picture and what is in it."""

    image: UInt8[np.ndarray, "h w 3"]
    """RGB."""
    labels: Int16[np.ndarray, "h w"]
    """0 background, k the word `WORDS[k - 1]`."""
    words: tuple[str, ...]
    """The words that are present, in the order of `WORDS`."""
    background: str
    """One of `demo.drawing.BACKGROUNDS`."""


@dataclass(frozen=True)
class SceneStyle:
    """What may vary from scene to scene."""

    objects: tuple[int, int] = (1, 3)
    """Fewest and most objects."""
    radius: tuple[float, float] = (0.12, 0.33)
    """Circumscribed radius as a share of the short side, drawn log-uniformly."""
    overlap: float = 0.35
    """Chance that an object is put where it may touch an earlier one."""
    alike: float = 0.0
    """Chance that an object takes the colour of an earlier one, so that shape alone tells them apart. At 0 the objects
    of a scene have colours of their own."""


def generator(split: Split, seed: int) -> np.random.Generator:
    """The random stream of one seed of one split."""
    return np.random.default_rng([int(split), seed])


def held_out_scenes(count: int, *, seed: int = 0, size: tuple[int, int] = (160, 160)) -> list[Scene]:
    """`count` scenes that no training run has seen; `size` is (width, height)."""
    rng = generator(Split.HELD_OUT, seed)
    return [draw_scene(rng, size=size) for _ in range(count)]


def draw_scene(
    rng: np.random.Generator, *, size: tuple[int, int] = (160, 160), style: SceneStyle | None = None
) -> Scene:
    """One random scene of `size` (width, height)."""
    style = style or SceneStyle()
    width, height = size
    background = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    canvas = ground(rng, background, width, height)
    labels = np.zeros((height, width), np.int16)
    for _ in range(int(rng.integers(style.objects[0], style.objects[1] + 1))):
        _add_object(rng, canvas, labels, style)
    if chance(rng, 0.2):
        canvas = blurred(canvas, rng.uniform(0.4, 0.8))
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
    """Draw one object over canvas and labels, or nothing where no free place is found in 12 tries."""
    height, width = labels.shape
    short = min(width, height)
    word = int(rng.integers(len(WORDS)))
    word = _recoloured(rng, word, np.flatnonzero(np.bincount(labels.ravel())[1:]), style.alike)
    colour, shape = WORDS[word].split()
    may_touch = chance(rng, style.overlap)
    for _ in range(12):
        radius = short * float(np.exp(rng.uniform(*np.log(style.radius))))
        centre = _place(rng, width, height, radius)
        polygon = outline(rng, shape, centre, radius)
        alpha = cover(polygon, width, height)
        inside = alpha > HALF_COVERED
        if _fits(labels, inside, may_touch=may_touch):
            fill(rng, canvas, colour, alpha, polygon)
            labels[inside] = word + 1
            return


def _recoloured(rng: np.random.Generator, word: int, earlier: np.ndarray, alike: float) -> int:
    """The word, or another colour of its shape: an earlier object's with chance `alike`, one that is free at 0."""
    taken = np.unique(earlier // len(SHAPES))
    colour, shape = divmod(word, len(SHAPES))
    if taken.size and alike and chance(rng, alike):
        colour = int(rng.choice(taken))
    elif not alike and colour in taken:
        colour = int(rng.choice([k for k in range(len(COLOURS)) if k not in taken]))
    return colour * len(SHAPES) + shape


def _place(rng: np.random.Generator, width: int, height: int, radius: float) -> tuple[float, float]:
    """A centre inside the central square: the sides of a wide picture are lost to CLIP's centre crop.

    The whole of a small object is kept inside; a big one may be cut a little by the border.
    """
    short = min(width, height)
    margin = min(0.95 * radius + 2, 0.42 * short)
    x, y = rng.uniform(margin, short - margin, 2)
    return float(x) + (width - short) / 2, float(y) + (height - short) / 2


def _fits(labels: Int16[np.ndarray, "h w"], inside: np.ndarray, *, may_touch: bool) -> bool:
    """Whether the new object leaves every earlier one at least 1 - LARGEST_HIDDEN visible."""
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
