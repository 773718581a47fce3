"""Colors of labels, distinct in hue and lightness, and the color map of heat maps."""

import math
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


@lru_cache(maxsize=4096)
def label_color(index: int) -> Rgb:
    """Return the color of the label at `index`, the same in every image."""
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
