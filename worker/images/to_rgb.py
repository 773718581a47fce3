"""Convert a Pillow image of any mode to RGB pixels: scaled, never clipped; transparency becomes white."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def to_rgb(image: Image.Image) -> tuple[Pixels, list[str]]:
    """Return a loaded image as uint8 (h, w, 3), and notes on what was changed."""
    if image.mode.startswith("I;16"):
        # Round to the nearest of 255 equal steps; `convert` would clip everything above 255.
        table = np.rint(np.arange(65536) / 257).astype(np.uint8)
        return _gray_to_rgb(table[np.asarray(image)]), ["16-bit scaled to 8"]
    if image.mode in ("I", "F"):
        return _stretch(np.asarray(image))
    if image.has_transparency_data:
        return _paste_on_white(image)
    notes = ["CMYK turned into RGB without its color profile"] if image.mode == "CMYK" else []
    return np.array(image.convert("RGB")), notes


def apply_orientation(pixels: Pixels, orientation: int) -> Pixels:
    """Return the pixels as EXIF `orientation` (1 to 8) shows them."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _paste_on_white(image: Image.Image) -> tuple[Pixels, list[str]]:
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(rgba, mask=alpha)
    is_opaque = alpha.getextrema() == (255, 255)
    return np.array(canvas), [] if is_opaque else ["transparency laid over white"]


def _stretch(values: NDArray[np.int32] | NDArray[np.float32]) -> tuple[Pixels, list[str]]:
    """Scale 32-bit integers or floats, which have no fixed white: floats within 0..1 by 255, others min..max to 0..255.

    NaN and infinities become 0.
    """
    floats = values.astype(np.float64)
    is_finite = np.isfinite(floats)
    finite = floats[is_finite]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    floats[~is_finite] = low
    floats -= low
    floats *= 255 / (high - low) if high > low else 0.0
    kind = "floats" if values.dtype.kind == "f" else "integers"
    return _gray_to_rgb(np.rint(floats).astype(np.uint8)), [f"32-bit {kind} from {low:g} to {high:g} scaled to 8 bits"]


def _gray_to_rgb(values: Pixels) -> Pixels:
    return np.repeat(values[..., None], 3, axis=2)
