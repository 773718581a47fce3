"""One picture, from a file or from bytes: limits from its header first, then RGB pixels as a browser shows them.

The bytes may come from anyone. Whatever they make a decoder do, the caller sees a Picture or an ImageError.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from worker.errors import ImageCorruptError, ImageError, ImageTooLargeError, ImageUnsupportedError
from worker.images.file_headers import MAX_FRAMES, count_frames, describe_foreign, excess, format_of
from worker.images.files import printable, read_file
from worker.images.suppress_warnings import suppress_warnings
from worker.images.tiff_tags import orientation_of
from worker.images.to_rgb import to_rgb, upright


@dataclass(frozen=True)
class ImageLimits:
    """What a picture may ask for. Pillow itself refuses above 178,956,970 pixels, whatever is allowed here."""

    max_pixels: int = 50_000_000
    max_side: int = 12_000
    max_bytes: int = 64 * 2**20


DEFAULT_LIMITS = ImageLimits()


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """A decoded picture.

    `pixels` are uint8 (height, width, 3), RGB 0..255, after EXIF orientation: the frame Label Studio shows.
    `sha256` is of the file's bytes, in hex. `notes` tell the user what was changed or left out on the way.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    sha256: str
    format: str
    notes: tuple[str, ...]


def open_image(source: Path | bytes, limits: ImageLimits = DEFAULT_LIMITS, *, name: str | None = None) -> DecodedImage:
    """The picture in a file or in its bytes; for animations and many pages, the first.

    Errors call it `name`, or by its path, or "the picture" where there is only its bytes.
    """
    name = printable(name or (source if isinstance(source, Path) else "the picture"))
    data = read_file(source, limits.max_bytes) if isinstance(source, Path) else source
    image_format = _check_bytes(name, data, limits)
    with _failures_named(name), Image.open(BytesIO(data), formats=(image_format,)) as image:
        _check_size(image.size, limits)
        notes = _frame_notes(image, data, image_format)
        deep = image.mode in ("RGB", "RGBA", "LA") and any(";16" in str(tile) for tile in image.tile)
        image.load()
        pixels, changes = to_rgb(image)
        # Pillow turns a TIFF by itself, and nothing else.
        orientation = orientation_of(data if image_format == "TIFF" else _exif_of(image))
        if image_format != "TIFF":
            pixels = upright(pixels, orientation)
        kind = image.format or image_format
    if deep:
        notes.append("16-bit scaled to 8")
    if orientation != 1:
        changes.append(f"rotated by EXIF orientation {orientation}")
    height, width = pixels.shape[:2]
    return DecodedImage(pixels, width, height, hashlib.sha256(data).hexdigest(), kind, (*notes, *changes))


def _check_bytes(name: str, data: bytes, limits: ImageLimits) -> str:
    """The format of bytes that are worth giving to a decoder."""
    if not data:
        raise ImageCorruptError(f"{name} is empty (0 bytes); copy or download it again")
    if len(data) > limits.max_bytes:
        raise ImageTooLargeError(
            f"{name} is larger than the {limits.max_bytes / 2**20:.4g} MiB allowed; save it smaller or raise the limit"
        )
    image_format = format_of(data)
    if image_format is None:
        raise ImageUnsupportedError(
            f"{name} is {describe_foreign(data)}, whatever its name says; save it as JPEG, PNG, WebP, TIFF, BMP or GIF"
        )
    reason = excess(data, image_format)
    if reason:
        raise ImageCorruptError(
            f"{name} has {reason}, as only a damaged or hostile {image_format} has; export it again"
        )
    return image_format


def _check_size(size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels or max(size) > limits.max_side:
        raise ImageTooLargeError(
            f"it is {width} x {height} pixels, above the {limits.max_pixels / 1e6:g} Mpx or {limits.max_side} a side "
            "allowed; scale it down or cut it into tiles"
        )


def _frame_notes(image: Image.Image, data: bytes, image_format: str) -> list[str]:
    frames = count_frames(data, image_format) if image_format in ("GIF", "TIFF") else getattr(image, "n_frames", 1)
    if frames == 1:
        return []
    noun = {"TIFF": "pages", "JPEG": "pictures"}.get(image_format, "frames")
    return [f"first of {frames} {noun}" if frames <= MAX_FRAMES else f"first of more than {MAX_FRAMES} {noun}"]


def _exif_of(image: Image.Image) -> bytes:
    exif = image.info.get("exif")
    return exif.removeprefix(b"Exif\0\0") if isinstance(exif, bytes) else b""


@contextmanager
def _failures_named(name: str) -> Iterator[None]:
    """Whatever a decoder raises or warns of becomes an ImageError that begins with the picture's name."""
    try:
        with suppress_warnings():
            yield
    except ImageError as error:
        raise type(error)(f"{name} cannot be used: {error}") from error
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(
            f"{name} has more pixels than any limit can allow; scale it down or cut it into tiles"
        ) from error
    except UnidentifiedImageError as error:  # its own message is the address of a buffer
        raise ImageCorruptError(f"{name} is cut short or damaged in its header; export or download it again") from error
    except MemoryError as error:
        raise ImageTooLargeError(f"{name} needs more memory than there is for a picture; scale it down") from error
    except Exception as error:  # decoders of hostile bytes raise anything: struct.error, SyntaxError, KeyError, ...
        reason = str(error) or type(error).__name__
        raise ImageCorruptError(
            f"{name} is cut short or damaged ({printable(reason)}); export or download it again"
        ) from error
