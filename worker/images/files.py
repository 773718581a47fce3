"""Find image files and read them."""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from car.printable import printable
from worker.errors import ImageMissingError, ImageTooLargeError, ImageUnsupportedError

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff", ".bmp", ".gif"}
)


def find_images(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files among `paths` as they are, and the files of each folder with an image suffix, sorted; each once.

    Dot files are left out (macOS keeps ._x.jpg beside x.jpg), and links to folders are not followed.
    """
    seen: set[Path] = set()
    for path in paths:
        for file in _image_files(path) if _is_folder(path) else (path,):
            if file not in seen:
                seen.add(file)
                yield file


def read_file(path: Path, max_bytes: int) -> bytes:
    """Return the bytes of a regular file of at most `max_bytes`."""
    name = printable(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ImageUnsupportedError(f"{name} is a folder, not an image; name a file in it")
        if not stat.S_ISREG(mode):  # reading a pipe or a device may never end
            raise ImageUnsupportedError(f"{name} is not a regular file; copy the image into one")
        with path.open("rb") as file:
            # One byte more than allowed shows that the file is too large.
            data = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _missing(path, error) from error
    if len(data) > max_bytes:
        raise ImageTooLargeError(
            f"{name} is larger than the {max_bytes / 2**20:.4g} MiB allowed; save it smaller or raise the limit"
        )
    return data


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError) as error:
        raise _missing(path, error) from error


def _image_files(folder: Path) -> list[Path]:
    def fail(error: OSError) -> None:
        raise _missing(Path(str(error.filename)), error) from error

    images = []
    for parent, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        images += [
            Path(parent, name)
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 - 5x faster
        ]
    if not images:
        suffixes = ", ".join(sorted(SUFFIXES))
        raise ImageMissingError(f"{printable(folder)} has no images; their names end in {suffixes}")
    return sorted(images)


def _missing(path: Path, error: OSError | ValueError) -> ImageMissingError:
    if isinstance(error, FileNotFoundError):
        return ImageMissingError(f"{printable(path)} does not exist; check the path")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return ImageMissingError(f"{printable(path)} cannot be read ({reason}); check the path and its permissions")
