"""Drawing of shapes and backgrounds: OpenCV polygons with soft edges over procedural textures."""

from collections.abc import Callable
from typing import Final

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

COLOURS: Final[dict[str, tuple[float, float]]] = {
    "red": (0.0, 5.0),
    "orange": (29.0, 4.0),
    "yellow": (56.0, 4.0),
    "green": (130.0, 12.0),
    "blue": (222.0, 10.0),
    "purple": (284.0, 9.0),
}
"""Hue and its largest deviation, in degrees."""

UPRIGHT: Final[dict[str, float]] = {
    "circle": 0.0,
    "square": np.pi / 4,
    "triangle": -np.pi / 2,
    "star": -np.pi / 2,
    "cross": 0.0,
}
"""Shapes and the angle of their first corner when they are upright, in radians clockwise from the right."""

SHAPES: Final[tuple[str, ...]] = tuple(UPRIGHT)

LEAN: Final = np.pi / 7
"""Largest rotation from upright, in radians."""

BACKGROUNDS: Final[tuple[str, ...]] = ("ground", "grass", "wall", "sky", "water", "cloud", "road", "rock")
"""Those of CaR's 23 background words that scenes show."""

_CORNERS: Final = {"circle": 48, "square": 4, "triangle": 3, "star": 10}
_SUBPIXEL: Final = 4  # OpenCV takes polygon corners as fixed point numbers with this many fractional bits
_Corners = Float[np.ndarray, "corners 2"]


def chance(rng: np.random.Generator, probability: float) -> bool:
    return bool(rng.random() < probability)


def outline(rng: np.random.Generator, shape: str, centre: tuple[float, float], radius: float) -> _Corners:
    """Return the corners (x, y) in pixels of a shape of circumscribed `radius`, rotated by at most LEAN."""
    points = _cross(rng.uniform(0.30, 0.38)) if shape == "cross" else _regular(_CORNERS[shape])
    if shape == "star":
        points[1::2] *= rng.uniform(0.40, 0.46)
    angle = UPRIGHT[shape] + rng.uniform(-LEAN, LEAN)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray(points @ turn.T * radius + np.asarray(centre), np.float64)


def _regular(corners: int) -> _Corners:
    angle = np.arange(corners) * 2 * np.pi / corners
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def _cross(half_width: float) -> _Corners:
    """Return a plus sign whose outer corners are on the unit circle: three corners, rotated by quarter turns."""
    a, b = half_width, float(np.sqrt(1 - half_width**2))
    quarters = [np.array([(b, -a), (b, a), (a, a)])]
    for _ in range(3):
        quarters.append(np.stack([-quarters[-1][:, 1], quarters[-1][:, 0]], 1))
    return np.concatenate(quarters)


def cover(polygon: _Corners, width: int, height: int) -> UInt8[np.ndarray, "h w"]:
    """Return how much of each pixel the polygon covers, 0..255."""
    alpha = np.zeros((height, width), np.uint8)
    corners = np.round(polygon * 2**_SUBPIXEL).astype(np.int32)
    cv2.fillPoly(alpha, [corners], 255, cv2.LINE_AA, _SUBPIXEL)
    return alpha


def fill(
    rng: np.random.Generator,
    canvas: Float32[np.ndarray, "h w 3"],
    colour: str,
    alpha: UInt8[np.ndarray, "h w"],
    polygon: _Corners,
) -> None:
    """Paint the covered pixels of `canvas` (RGB, 0..255) in a shade of `colour`, in place."""
    height, width = alpha.shape
    hue, spread = COLOURS[colour]
    tone = rgb(hue + rng.uniform(-spread, spread), rng.uniform(0.78, 1.0), rng.uniform(0.72, 0.98))
    x0, y0 = np.clip(np.floor(polygon.min(0)).astype(int) - 1, 0, [width, height])
    x1, y1 = np.clip(np.ceil(polygon.max(0)).astype(int) + 2, 0, [width, height])
    shade = _shade(rng, int(x1 - x0), int(y1 - y0))
    weight = alpha[y0:y1, x0:x1, None].astype(np.float32) / 255
    patch = canvas[y0:y1, x0:x1]
    patch += weight * (tone * shade[..., None] - patch)
    if chance(rng, 0.25):
        corners = np.round(polygon * 2**_SUBPIXEL).astype(np.int32)
        edge = np.zeros((height, width), np.uint8)
        cv2.polylines(edge, [corners], True, 255, 1, cv2.LINE_AA, _SUBPIXEL)
        # Only inside the object, so that the ground truth keeps its boundary.
        rim = np.minimum(edge, alpha)[..., None].astype(np.float32) / 255
        canvas += rim * (tone * np.float32(rng.uniform(0.6, 0.8)) - canvas)


def rgb(hue: float, saturation: float, value: float) -> Float32[np.ndarray, "3"]:
    """Convert HSV (degrees, 0..1, 0..1) to RGB 0..255."""
    pixel = np.array([[[hue % 360, saturation, value]]], np.float32)
    return np.asarray(cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0] * 255, np.float32)


def _shade(rng: np.random.Generator, width: int, height: int) -> Float32[np.ndarray, "h w"]:
    """Return brightness factors near 1: even, a gradient, or faint stripes."""
    kind = rng.integers(3)
    x, y = _axes(width, height)
    angle = rng.uniform(0, 2 * np.pi)
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    if kind == 0:
        return np.ones((height, width), np.float32)
    if kind == 1:
        return 1 + np.float32(rng.uniform(0.0, 0.14)) * (along / max(width, height) - np.float32(0.35))
    return 1 + np.float32(rng.uniform(0.01, 0.04)) * np.sin(along * np.float32(rng.uniform(0.5, 1.2)))


def _axes(width: int, height: int) -> tuple[Float32[np.ndarray, "1 w"], Float32[np.ndarray, "h 1"]]:
    return np.arange(width, dtype=np.float32)[None], np.arange(height, dtype=np.float32)[:, None]


def ground(rng: np.random.Generator, background: str, width: int, height: int) -> Float32[np.ndarray, "h w 3"]:
    """Draw a background word without objects, RGB 0..255. Its colours are dull: saturated ones belong to objects."""
    tone, contrast, texture = _GROUNDS[background]
    base = np.array(tone, np.float32) + rng.uniform(-12, 12, 3).astype(np.float32)
    relief = texture(rng, width, height)[..., None] * np.float32(contrast * rng.uniform(0.7, 1.2))
    return np.asarray(np.clip(base + relief, 0, 255), np.float32)


def _clumps(rng: np.random.Generator, width: int, height: int, cell_w: float, cell_h: float) -> np.ndarray:
    """Return smooth random relief of about unit size with cells of the given pixels."""
    small = rng.standard_normal((max(2, int(height / cell_h) + 2), max(2, int(width / cell_w) + 2))).astype(np.float32)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))


def _blades(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    return _clumps(rng, width, height, 2, 9) + 0.5 * _clumps(rng, width, height, 30, 30)


def _pebbles(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    return np.asarray(0.6 * _clumps(rng, width, height, 3, 3) + _clumps(rng, width, height, 24, 24))


def _slope(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    _, y = _axes(width, height)
    return np.broadcast_to((y / height - 0.5) * 2 * np.float32(rng.uniform(0.6, 1.2)), (height, width))


def _puffs(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    return np.tanh(1.5 * _clumps(rng, width, height, 40, 26)) + 0.2 * _clumps(rng, width, height, 10, 8)


def _ripples(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    x, y = _axes(width, height)
    bend = 3 * np.sin(x * np.float32(rng.uniform(0.03, 0.08)) + np.float32(rng.uniform(0, 6)))
    waves = np.sin((y + bend) * np.float32(rng.uniform(0.5, 0.9)))
    return np.asarray(waves + 0.4 * _clumps(rng, width, height, 30, 6))


def _bricks(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    brick_h, brick_w = int(rng.integers(9, 15)), int(rng.integers(20, 32))
    y, x = np.mgrid[:height, :width]
    row = (y + int(rng.integers(brick_h))) // brick_h
    shifted = x + (row % 2) * (brick_w // 2) + int(rng.integers(brick_w))
    mortar = ((y + brick_h) % brick_h == 0) | (shifted % brick_w == 0)
    shades = rng.uniform(-0.4, 0.4, (97,)).astype(np.float32)
    return np.where(mortar, np.float32(1.2), shades[(row * 31 + shifted // brick_w * 17) % 97])


def _asphalt(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    relief = 0.35 * _clumps(rng, width, height, 2, 2)
    x, y = _axes(width, height)
    half_width, dash, period = 2, 15, 26
    lane = (np.abs(x - width * np.float32(rng.uniform(0.2, 0.8))) < half_width) & (y % period < dash)
    return np.where(lane, np.float32(6.0), relief)


def _cracks(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    relief, thin = _clumps(rng, width, height, 18, 14), 0.06
    return np.where(np.abs(relief) < thin, np.float32(-1.6), 0.5 * relief) + 0.3 * _clumps(rng, width, height, 4, 4)


_Texture = Callable[[np.random.Generator, int, int], np.ndarray]
_GROUNDS: Final[dict[str, tuple[tuple[int, int, int], float, _Texture]]] = {
    "ground": ((126, 104, 80), 10.0, _pebbles),
    "grass": ((92, 118, 66), 11.0, _blades),
    "wall": ((158, 134, 120), 16.0, _bricks),
    "sky": ((150, 182, 214), 20.0, _slope),
    "water": ((72, 112, 128), 11.0, _ripples),
    "cloud": ((196, 206, 218), 18.0, _puffs),
    "road": ((84, 84, 88), 14.0, _asphalt),
    "rock": ((132, 132, 130), 16.0, _cracks),
}
"""Mean colour, strength of the relief in gray levels, relief."""


def noisy(rng: np.random.Generator, canvas: Float32[np.ndarray, "h w 3"], sigma: float) -> UInt8[np.ndarray, "h w 3"]:
    """Add sensor noise of `sigma` gray levels and round to 8 bits."""
    noise = rng.standard_normal(canvas.shape, np.float32) * np.float32(sigma)
    return np.asarray(np.clip(np.rint(canvas + noise), 0, 255), np.uint8)
