"""Training data of the tiny SAM: scenes or windows of them, points, and the target mask of each point.

Errors where objects touch change a mask little and its boundary much: half of the scenes are drawn until two touch.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, Integer
from torch import Tensor

from demo.drawing import chance
from demo.scenes import Scene, SceneStyle, draw_scene
from worker.segmenter.sam.network import PIXEL_MEAN, PIXEL_STD, SamSizes

TINY: Final = SamSizes(
    image_size=256, patch=8, width=96, depth=4, heads=3, global_blocks=(1, 3), window=8, relative_positions=False,
    prompt_width=64, decoder_heads=2, decoder_mlp=256, quality_hidden=64, mask_prompt_width=8,
)  # fmt: skip

SIDES: Final = (128, 160, 160, 160, 192, 240, 320)
"""Pixels of a scene's sides before it is resized for SAM."""

WINDOWED: Final = 0.5
"""Share of the steps on quarters of images, which cost less and teach boundaries too."""

SCENES_A_STEP: Final = {True: 6, False: 4}
"""By whether the step is windowed."""

POINTS_A_SCENE: Final = 6
ON_OBJECTS: Final = 0.75
"""Share of the points."""

AT_CONTACTS: Final = 0.4
"""Share of the windows and of the points on objects that are where objects touch, in scenes in which two do."""

_NEAR: Final = 6
"""Largest distance in pixels between objects that count as touching."""

_LEAST_VISIBLE: Final = 40
"""Fewest visible pixels of an object that gets a point."""


@dataclass(frozen=True)
class Window:
    """A square part of the padded image, in patches."""

    top: int = 0
    left: int = 0
    side: int = TINY.grid

    def from_mask(self, sheet: Tensor, scale: int = 1) -> Tensor:
        """Return the part of a tensor (..., h, w) with `scale` cells per patch."""
        rows = slice(self.top * scale, (self.top + self.side) * scale)
        columns = slice(self.left * scale, (self.left + self.side) * scale)
        return sheet[..., rows, columns]


@dataclass(frozen=True)
class SamSample:
    """An image or a window of it, with points and their target masks."""

    window: Window
    pixels: Float32[Tensor, "3 s s"]
    """Normalised and padded, as SAM's image encoder takes it."""
    points: Float32[Tensor, "k 2"]
    """x, y in pixels of the whole resized image."""
    masks: Float32[Tensor, "k m m"]
    """Share of each pixel of the low-resolution mask that shows the object; zero for points on the ground."""
    rivals: Float32[Tensor, "k m m"]
    """The same for all other objects, which the mask must not cover."""
    on_object: Bool[Tensor, " k"]


STYLES: Final = (
    SceneStyle(),
    SceneStyle(objects=(2, 4), overlap=1.0),
    SceneStyle(objects=(2, 5), overlap=0.7, alike=0.3),
)
"""As in the benchmark, touching, and crowded with objects of one colour that may touch."""

_STYLE_SHARES: Final = (0.4, 0.5, 0.1)


def random_scene(rng: np.random.Generator) -> Scene:
    size = (int(rng.choice(SIDES)), int(rng.choice(SIDES)))
    if chance(rng, 0.6):
        size = (size[0], size[0])
    style = STYLES[int(rng.choice(len(STYLES), p=_STYLE_SHARES))]
    for _ in range(6):
        scene = draw_scene(rng, size=size, style=style)
        if style.overlap < 1 or contacts(scene.labels).any():
            break
    return scene


def contacts(objects: Integer[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Return the pixels of objects near another object. 0 is the background."""
    disk = np.ones((2 * _NEAR + 1, 2 * _NEAR + 1), np.uint8)
    highest = cv2.dilate(objects.astype(np.int16), disk)
    lowest = cv2.erode(np.where(objects > 0, objects, np.iinfo(np.int16).max).astype(np.int16), disk)
    return np.asarray((objects > 0) & ((highest > objects) | (lowest < objects)))


def make_sample(rng: np.random.Generator, scene: Scene, *, windowed: bool) -> SamSample:
    """Draw points on a scene, most of them on objects; all objects are equally likely, large or small."""
    share = TINY.image_size / max(scene.labels.shape)
    window = random_window(rng, scene) if windowed else Window()
    objects = _objects(scene.labels)
    visible = np.full(objects.shape, -1)
    top, left, side = (round(patches * TINY.patch / share) for patches in (window.top, window.left, window.side))
    visible[top : top + side, left : left + side] = objects[top : top + side, left : left + side]
    counts = np.bincount(visible[visible > 0])
    candidates = np.flatnonzero(counts >= _LEAST_VISIBLE)
    touching = contacts(objects)
    points, targets = [], []
    for _ in range(POINTS_A_SCENE):
        chosen = int(rng.choice(candidates)) if candidates.size and chance(rng, ON_OBJECTS) else 0
        region = visible == chosen
        close = region & touching
        y, x = _random_pixel(rng, close if close.any() and chance(rng, AT_CONTACTS) else region)
        # The prompt encoder adds half a pixel.
        points.append(((x + rng.random()) * share - 0.5, (y + rng.random()) * share - 0.5))
        targets.append(chosen or -1)
    masks = torch.from_numpy(np.stack([_coverage(objects == target) for target in targets]))
    rivals = torch.from_numpy(np.stack([_coverage((objects > 0) & (objects != target)) for target in targets]))
    return SamSample(
        window=window,
        pixels=window.from_mask(prepared(scene.image), TINY.patch),
        points=torch.tensor(points, dtype=torch.float32),
        masks=window.from_mask(masks, 4),
        rivals=window.from_mask(rivals, 4),
        on_object=torch.tensor([target > 0 for target in targets]),
    )


def _objects(labels: np.ndarray) -> np.ndarray:
    """Return the connected components of the label map, counted from 1: a point means one object of its word."""
    objects = np.zeros(labels.shape, np.int32)
    for word in np.unique(labels[labels > 0]):
        count, parts = cv2.connectedComponents((labels == word).astype(np.uint8), connectivity=8)
        parts[parts > 0] += objects.max()
        objects += parts if count else 0
    return objects


def random_window(rng: np.random.Generator, scene: Scene) -> Window:
    """Return a quarter of the square, aligned to the encoder's attention windows, with an object or two touching ones,
    if there are any.
    """
    side = TINY.grid // 2
    share = TINY.grid / max(scene.labels.shape)
    touching = contacts(scene.labels)
    y, x = _random_pixel(rng, touching if touching.any() and chance(rng, AT_CONTACTS) else scene.labels > 0)
    steps = (TINY.grid - side) // TINY.window
    origins = [
        TINY.window * int(np.clip(round((center * share - side / 2) / TINY.window + rng.uniform(-0.5, 0.5)), 0, steps))
        for center in (y, x)
    ]
    return Window(top=origins[0], left=origins[1], side=side)


def _random_pixel(rng: np.random.Generator, mask: Bool[np.ndarray, "h w"]) -> tuple[int, int]:
    index = int(rng.choice(np.flatnonzero(mask) if mask.any() else np.arange(mask.size)))
    return index // mask.shape[1], index % mask.shape[1]


def _coverage(mask: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, "m m"]:
    """Return the mask on the padded square at the mask decoder's resolution, a quarter of a patch."""
    side = 4 * TINY.grid
    height, width = mask.shape
    share = side / max(height, width)
    columns, rows = max(1, round(width * share)), max(1, round(height * share))
    padded = np.zeros((side, side), np.float32)
    padded[:rows, :columns] = _resize(mask.astype(np.float32), (columns, rows), share)
    return padded


def prepared(image: np.ndarray) -> Float32[Tensor, "3 s s"]:
    """Normalise and pad RGB bytes (h, w, 3) for SAM's image encoder."""
    height, width = image.shape[:2]
    share = TINY.image_size / max(height, width)
    columns, rows = max(1, int(width * share + 0.5)), max(1, int(height * share + 0.5))
    mean, std = np.array(PIXEL_MEAN, np.float32), np.array(PIXEL_STD, np.float32)
    padded = np.zeros((TINY.image_size, TINY.image_size, 3), np.float32)
    padded[:rows, :columns] = (_resize(image, (columns, rows), share) - mean) / std
    return torch.from_numpy(padded).permute(2, 0, 1).contiguous()


def _resize(array: np.ndarray, size: tuple[int, int], share: float) -> np.ndarray:
    return cv2.resize(array, size, interpolation=cv2.INTER_AREA if share < 1 else cv2.INTER_LINEAR)
