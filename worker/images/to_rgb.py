"""A decoded Pillow picture -> RGB pixels: every mode scaled, never clipped, transparency laid over white."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def to_rgb(image: Image.Image) -> tuple[Pixels, list[str]]:
    """uint8 (h, w, 3) of a loaded picture in any mode, and what was done to get there."""
    if image.mode.startswith("I;16"):
        # Round to the nearest of 255 equal steps; `convert` would clip everything above 255.
        table = np.rint(np.arange(65536) / 257).astype(np.uint8)
        return _grey(table[np.asarray(image)]), ["16-bit scaled to 8"]
    if image.mode in ("I", "F"):
        return _stretched(np.asarray(image))
    if image.has_transparency_data:
        return _over_white(image)
    notes = ["CMYK turned into RGB without its colour profile"] if image.mode == "CMYK" else []
    return np.array(image.convert("RGB")), notes


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """The pixels as EXIF `orientation` (1 to 8) asks to show them."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _over_white(picture: Image.Image) -> tuple[Pixels, list[str]]:
    clear = picture.convert("RGBA")
    alpha = clear.getchannel("A")
    white = Image.new("RGB", picture.size, "white")
    white.paste(clear, mask=alpha)
    opaque = alpha.getextrema() == (255, 255)
    return np.array(white), [] if opaque else ["transparency laid over white"]


def _stretched(values: NDArray[np.int32] | NDArray[np.float32]) -> tuple[Pixels, list[str]]:
    """Whole numbers or floats have no white of their own: 0 to 1 is kept where floats lie in it, else min to max."""
    floats = values.astype(np.float64)
    finite = np.isfinite(floats)
    known = floats[finite]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    floats[~finite] = low
    floats -= low
    floats *= 255 / (high - low) if high > low else 0.0
    name = "floats" if values.dtype.kind == "f" else "whole numbers"
    return _grey(np.rint(floats).astype(np.uint8)), [f"32-bit {name} from {low:g} to {high:g} scaled to 8 bits"]


def _grey(values: Pixels) -> Pixels:
    return np.repeat(values[..., None], 3, axis=2)
