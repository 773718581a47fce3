"""Decode an image from a file or bytes: check its header against limits first, then convert it to RGB.

The bytes may be hostile. Whatever they make a decoder do, the caller gets a DecodedImage or an ImageError.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from car.printable import printable
from worker.errors import ImageCorruptError, ImageError, ImageTooLargeError, ImageUnsupportedError
from worker.images.file_headers import MAX_FRAMES, count_frames, describe_excess, describe_foreign, detect_format
from worker.images.files import read_file
from worker.images.suppress_warnings import suppress_warnings
from worker.images.tiff_tags import describe_samples, read_orientation
from worker.images.to_rgb import apply_orientation, to_rgb

_UNSUPPORTED = re.compile(r"unsupported |decoder .* not available", re.IGNORECASE)
"""Beginning of what Pillow says of valid files that it does not decode."""


@dataclass(frozen=True)
class ImageLimits:
    """Bounds of an image. Pillow itself refuses images above 178,956,970 pixels."""

    max_pixels: int = 50_000_000
    max_side: int = 12_000
    max_bytes: int = 64 * 2**20


DEFAULT_LIMITS = ImageLimits()


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """A decoded image.

    `pixels` are uint8 (height, width, 3), RGB 0..255, after EXIF orientation, as Label Studio shows them.
    `sha256` is that of the file's bytes, in hex. `notes` describe what was changed or left out.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    sha256: str
    format: str
    notes: tuple[str, ...]


def open_image(source: Path | bytes, limits: ImageLimits = DEFAULT_LIMITS, *, name: str | None = None) -> DecodedImage:
    """Return the image in a file or in bytes; the first one of animations and multi-page files.

    Errors call it `name`, its path, or "the image" if there are only bytes.
    """
    name = printable(name or (source if isinstance(source, Path) else "the image"))
    data = read_file(source, limits.max_bytes) if isinstance(source, Path) else source
    image_format = _check_bytes(name, data, limits)
    with _as_image_errors(name, data), Image.open(BytesIO(data), formats=(image_format,)) as image:
        _check_size(image.size, limits)
        notes = _frame_notes(image, data, image_format)
        is_16_bit = image.mode in ("RGB", "RGBA", "LA") and any(";16" in str(tile) for tile in image.tile)
        image.load()
        pixels, changes = to_rgb(image, data, is_16_bit=is_16_bit)
        # Pillow applies the orientation of a TIFF itself, and of no other format.
        orientation = read_orientation(data if image_format == "TIFF" else _exif(image))
        if image_format != "TIFF":
            pixels = apply_orientation(pixels, orientation)
        decoded_format = image.format or image_format
    if orientation != 1:
        changes.append(f"rotated by EXIF orientation {orientation}")
    height, width = pixels.shape[:2]
    return DecodedImage(pixels, width, height, hashlib.sha256(data).hexdigest(), decoded_format, (*notes, *changes))


def _check_bytes(name: str, data: bytes, limits: ImageLimits) -> str:
    """Return the format of bytes that are safe to decode."""
    if not data:
        raise ImageCorruptError(f"{name} is empty (0 bytes); copy or download it again")
    if len(data) > limits.max_bytes:
        raise ImageTooLargeError(
            f"{name} is larger than the {limits.max_bytes / 2**20:.4g} MiB allowed; save it smaller or raise the limit"
        )
    image_format = detect_format(data)
    if image_format is None:
        foreign = describe_foreign(data)
        how = ", for example with `heif-convert a.heic a.jpg`" if foreign == "HEIC" else ""
        raise ImageUnsupportedError(
            f"{name} is {foreign}, not a supported image; save it as JPEG, PNG, WebP, AVIF, TIFF, BMP or GIF{how}"
        )
    reason = describe_excess(data, image_format)
    if reason:
        raise ImageCorruptError(f"{name} has {reason}: the {image_format} file is damaged or hostile; export it again")
    return image_format


def _check_size(size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels or max(size) > limits.max_side:
        raise ImageTooLargeError(
            f"its {width} x {height} pixels exceed the limit of {limits.max_pixels / 1e6:g} Mpx or {limits.max_side} a "
            "side; scale it down or cut it into tiles"
        )


def _frame_notes(image: Image.Image, data: bytes, image_format: str) -> list[str]:
    frames = count_frames(data, image_format) if image_format in ("GIF", "TIFF") else getattr(image, "n_frames", 1)
    if frames == 1:
        return []
    noun = {"TIFF": "pages", "JPEG": "images"}.get(image_format, "frames")
    return [f"first of {frames} {noun}" if frames <= MAX_FRAMES else f"first of more than {MAX_FRAMES} {noun}"]


def _exif(image: Image.Image) -> bytes:
    exif = image.info.get("exif")
    return exif.removeprefix(b"Exif\0\0") if isinstance(exif, bytes) else b""


@contextmanager
def _as_image_errors(name: str, data: bytes) -> Iterator[None]:
    """Turn any error of a decoder into an ImageError that begins with the image's name, and suppress its warnings."""
    try:
        with suppress_warnings():
            yield
    except ImageError as error:
        raise type(error)(f"{name} cannot be used: {error}") from error
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(
            f"{name} has more pixels than any limit allows; scale it down or cut it into tiles"
        ) from error
    except UnidentifiedImageError as error:  # its message is only a buffer's address
        if samples := describe_samples(data):
            raise ImageUnsupportedError(
                f"{name} is a TIFF of {samples}, which is not supported; save it with 1, 3 or 4 bands of 8 or 16 bits"
            ) from error
        raise ImageCorruptError(f"{name} is truncated or has a damaged header; export or download it again") from error
    except MemoryError as error:
        raise ImageTooLargeError(f"{name} needs more memory than is available; scale it down") from error
    except Exception as error:  # decoders raise anything: struct.error, SyntaxError, KeyError, ...
        reason = str(error) or type(error).__name__
        if _UNSUPPORTED.match(reason):
            raise ImageUnsupportedError(
                f"{name} cannot be read ({printable(reason)}); save it as JPEG or PNG"
            ) from error
        raise ImageCorruptError(
            f"{name} is truncated or damaged ({printable(reason)}); export or download it again"
        ) from error
