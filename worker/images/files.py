"""Find image files and read them."""

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from car.bulk_source import SUFFIXES
from car.printable import printable
from worker.errors import ImageMissingError, ImageTooLargeError, ImageUnsupportedError

_BROKEN_LINKS = "broken links"


def find_images(paths: Iterable[Path], passed_over: Counter[str] | None = None) -> Iterator[Path]:
    """Yield the files among `paths` as they are, and the files of each folder with an image suffix, sorted; each once.

    Dot files are left out (macOS keeps ._x.jpg beside x.jpg), and links to folders are not followed. Other files of
    folders, and links to nothing, are counted in `passed_over` by suffix.
    """
    passed_over = Counter() if passed_over is None else passed_over
    seen: set[Path] = set()
    for path in paths:
        for file in _image_files(path, passed_over) if _is_folder(path) else (path,):
            if file not in seen:
                seen.add(file)
                yield file


def describe_passed_over(passed_over: Counter[str]) -> str:
    """Return such as `4 files passed over: 3 .heic, 1 .svg`."""
    kinds = ", ".join(f"{count} {printable(suffix)}" for suffix, count in passed_over.most_common(10))
    total = passed_over.total()
    return f"{total} {'file' if total == 1 else 'files'} passed over: {kinds}"


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


def _image_files(folder: Path, passed_over: Counter[str]) -> list[Path]:
    def fail(error: OSError) -> None:
        raise _missing(Path(str(error.filename)), error) from error

    images = []
    for parent, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path, suffix = os.path.join(parent, name), os.path.splitext(name)[1].lower()  # noqa: PTH118, PTH122 - 5x faster
            if name.startswith("."):
                continue
            if suffix in SUFFIXES and os.path.exists(path):  # noqa: PTH110 - false for loops of links
                images.append(Path(path))
            else:
                passed_over[_BROKEN_LINKS if suffix in SUFFIXES else suffix or "without a suffix"] += 1
    if not images:
        over = f" ({describe_passed_over(passed_over)})" if passed_over else ""
        raise ImageMissingError(f"{printable(folder)} has no images{over}; their names end in {', '.join(SUFFIXES)}")
    return sorted(images)


def _missing(path: Path, error: OSError | ValueError) -> ImageMissingError:
    if isinstance(error, FileNotFoundError):
        return ImageMissingError(f"{printable(path)} does not exist; check the path")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return ImageMissingError(f"{printable(path)} cannot be read ({reason}); check the path and its permissions")
