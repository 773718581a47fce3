"""Colors of labels, distinct in hue and lightness, and the color map of heat maps."""

import math
import re
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

Rgb = tuple[int, int, int]

WHITE: Final[Rgb] = (255, 255, 255)
BLACK: Final[Rgb] = (16, 18, 22)

# Angle and lightnesses keep the first dozen, and then the first two dozen, as far apart in OKLab as a random search of
# thousands could; the odd twentieth of a degree lets no colour come round again.
_ANGLE = 153.05
_FIRST_HUE = 255.0
_LIGHTNESS = (0.68, 0.55, 0.85)
_CHROMA = 0.19
_HEAT = ((0, 0, 4), (61, 9, 101), (136, 34, 106), (203, 65, 73), (246, 125, 21), (251, 190, 35), (252, 255, 164))


_NAMED: Final[dict[str, Rgb]] = {
    "red": (218, 44, 38),
    "orange": (240, 134, 22),
    "yellow": (240, 206, 28),
    "green": (38, 156, 62),
    "blue": (42, 98, 222),
    "purple": (140, 64, 190),
    "violet": (140, 64, 190),
    "pink": (240, 128, 176),
    "magenta": (214, 44, 168),
    "cyan": (30, 190, 210),
    "turquoise": (40, 186, 170),
    "brown": (132, 86, 48),
    "beige": (224, 204, 164),
    "black": (48, 50, 54),
    "gray": (136, 138, 142),
    "grey": (136, 138, 142),
    "silver": (186, 190, 194),
    "white": (244, 244, 240),
    "gold": (214, 170, 40),
}
"""Colors that labels can name."""


def label_color(index: int, label: str) -> Rgb:
    """Return the color of the label at `index` of its vocabulary, the same in every image.

    A label that names a color has that color, so that the drawing does not contradict it.
    """
    named = [word for word in re.findall(r"[a-z]+", label.lower()) if word in _NAMED]
    return _NAMED[named[0]] if named else _palette_color(index)


@lru_cache(maxsize=4096)
def _palette_color(index: int) -> Rgb:
    hue = math.radians((_FIRST_HUE + index * _ANGLE) % 360)
    lightness = _LIGHTNESS[index % len(_LIGHTNESS)]
    chroma = _CHROMA
    while True:
        red, green, blue = _srgb(lightness, chroma * math.cos(hue), chroma * math.sin(hue))
        if min(red, green, blue) >= 0 and max(red, green, blue) <= 1:
            return round(red * 255), round(green * 255), round(blue * 255)
        chroma *= 0.97  # towards grey until a screen can show it; grey itself always can be


def contrasting_color(colour: Rgb) -> Rgb:
    """Return black or white, whichever has more contrast."""
    red, green, blue = ((v / 255) ** 2.2 for v in colour)
    return BLACK if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.28 else WHITE  # noqa: PLR2004 - by eye


def heatmap(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Map values 0..1 (h, w) to RGB: black, purple, orange, pale yellow."""
    stops = np.linspace(0, 1, len(_HEAT))
    anchors = np.asarray(_HEAT, np.float64)
    channels = [np.interp(values, stops, anchors[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def _srgb(lightness: float, a: float, b: float) -> tuple[float, float, float]:
    """Convert OKLab to sRGB; values outside 0..1 are out of gamut."""
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    red, green, blue = (12.92 * v if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055 for v in linear)  # noqa: PLR2004
    return red, green, blue
