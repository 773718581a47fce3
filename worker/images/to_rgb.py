"""Convert a Pillow image of any mode to RGB pixels: scaled, never clipped; transparency becomes white."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worker.images.color_profiles import to_srgb

Pixels = NDArray[np.uint8]


def to_rgb(image: Image.Image, data: bytes = b"", *, is_16_bit: bool = False) -> tuple[Pixels, list[str]]:
    """Return a loaded image as uint8 (h, w, 3), and notes on what was changed.

    `is_16_bit` says that Pillow reduced the colors of the file `data` to their upper bytes.
    """
    if image.mode.startswith("I;16"):
        return _scale_16_bit(np.asarray(image))
    if image.mode in ("I", "F"):
        return _stretch(np.asarray(image))
    if is_16_bit and (dark := _read_dark_colors(image, data)) is not None:
        return _scale_16_bit(dark)
    notes = ["16-bit scaled to 8"] if is_16_bit else []
    if image.info.get("icc_profile"):
        image, note = to_srgb(image)
        notes += note
    elif image.mode == "CMYK":
        notes.append("CMYK turned into RGB without a color profile")
    if image.has_transparency_data:
        pixels, more = _paste_on_white(image)
        return pixels, notes + more
    return np.array(image.convert("RGB")), notes


def _scale_16_bit(values: NDArray[np.uint16]) -> tuple[Pixels, list[str]]:
    """Scale by the fewest bits (8, 10, 12, 14 or 16) that hold the largest value.

    Cameras and microscopes store 10 to 14 bits in 16-bit files, and few files say how many. Rounds to the nearest of
    255 equal steps, where Pillow's `convert` would clip everything above 255.
    """
    largest = int(values.max(initial=0))
    bits = next(bits for bits in (8, 10, 12, 14, 16) if largest < 1 << bits)
    table = np.rint(np.arange(1 << bits) * (255 / ((1 << bits) - 1))).astype(np.uint8)
    scaled = table[values]
    note = "16-bit scaled to 8" if bits == 16 else f"{bits}-bit values in 16 bits scaled to 8"  # noqa: PLR2004
    return scaled if scaled.ndim == 3 else _gray_to_rgb(scaled), [note]  # noqa: PLR2004 - (h, w, 3)


def _read_dark_colors(image: Image.Image, data: bytes) -> NDArray[np.uint16] | None:
    """Return the 16-bit colors of a PNG or TIFF whose values have at most 14 bits; None for any other image.

    Pillow keeps only the upper byte of each color, and so a quarter of the steps of 10-bit data.
    """
    if image.mode != "RGB" or max(high for _, high in image.getextrema()) >= 1 << 6:  # type: ignore[misc] # per band
        return None
    import cv2  # noqa: PLC0415 - few images need it

    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.shape != (image.height, image.width, 3):
        return None
    colors = values[..., ::-1].astype(np.uint16)
    # Not the same if Pillow has turned the image by its orientation.
    return colors if np.array_equal(colors >> 8, np.asarray(image)) else None


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
