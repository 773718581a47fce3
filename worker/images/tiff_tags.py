"""TIFF directories, which EXIF uses too: orientation, pages, and whether reading them is safe.

Pillow copies the bytes of every tag when it opens a file. Tags may overlap, so 64 MiB can ask for terabytes;
these walks copy nothing, stop after a fixed number of directories, and never fail: what is damaged is not there.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

ORIENTATION = 274
SHORT, LONG = 3, 4
# Pillow follows these from the first directory: Exif, GPS, Interoperability.
SUB_DIRECTORIES = (34665, 34853, 40965)
MAX_SUB_DIRECTORIES = 8
# Bytes of one value by field type; Pillow skips fields of other types.
TYPE_SIZES = np.array([0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8])
# Room for a camera's damaged tags, whose sizes mean nothing, and far below what hurts.
MAX_TAG_BYTES = 64 * 2**20


class _Layout(NamedTuple):
    """How a block stores its directories: byte order, and the widths of counts and offsets (4, or 8 in BigTIFF)."""

    order: Literal["little", "big"]
    entries: int
    offset: int
    field: np.dtype[Any]


class _Directory(NamedTuple):
    """One directory: its whole fields (tag, type, count, value as raw bytes) and the next one's place, or 0."""

    fields: NDArray[Any]
    following: int


def orientation_of(block: bytes) -> int:
    """Orientation 1 to 8 of a TIFF file or EXIF block; 1 where it says none."""
    layout = _layout(block)
    if layout is None:
        return 1
    fields = _directory(block, layout, _first(block, layout)).fields
    known = fields[(fields["tag"] == ORIENTATION) & np.isin(fields["type"], (SHORT, LONG))]
    if not known.size:
        return 1
    width = 2 if known["type"][0] == SHORT else 4
    value = int.from_bytes(known["value"][0][:width].tobytes(), layout.order)
    return value if 1 <= value <= 8 else 1  # noqa: PLR2004 - the eight of EXIF


def count_pages(block: bytes, at_most: int) -> int:
    """Directories in the chain of a TIFF file, at least 1."""
    layout = _layout(block)
    pages: set[int] = set()
    at = _first(block, layout) if layout else 0
    while layout and at and at not in pages and len(pages) < at_most:
        pages.add(at)
        at = _directory(block, layout, at).following
    return max(len(pages), 1)


def tags_fit(block: bytes) -> bool:
    """Whether the values of all tags that Pillow would read take about as much room as there is."""
    total = sum(
        float(np.minimum(TYPE_SIZES[known] * fields["count"].astype(np.float64), len(block)).sum())
        for fields in _read_directories(block)
        for known in [np.where(fields["type"] < TYPE_SIZES.size, fields["type"], 0)]
    )
    return total <= MAX_TAG_BYTES + 2 * len(block)


def _read_directories(block: bytes) -> Iterator[NDArray[Any]]:
    """The fields of the first directory and of those it points to."""
    layout = _layout(block)
    if layout is None:
        return
    places = [_first(block, layout)]
    for read in range(MAX_SUB_DIRECTORIES):
        if read == len(places):
            return
        fields = _directory(block, layout, places[read]).fields
        yield fields
        pointers = fields[np.isin(fields["tag"], SUB_DIRECTORIES)]["value"]
        places += [int.from_bytes(value.tobytes(), layout.order) for value in pointers[:MAX_SUB_DIRECTORIES]]


def _layout(block: bytes) -> _Layout | None:
    order: Literal["little", "big"] | None = {b"II": "little", b"MM": "big"}.get(block[:2])  # type: ignore[assignment]
    if order is None:
        return None
    big = int.from_bytes(block[2:4], order) == 43  # noqa: PLR2004 - BigTIFF; TIFF is 42
    sign = "<" if order == "little" else ">"
    count, value = (f"{sign}u8", 8) if big else (f"{sign}u4", 4)
    field = np.dtype([("tag", f"{sign}u2"), ("type", f"{sign}u2"), ("count", count), ("value", np.uint8, value)])
    return _Layout(order, 8 if big else 2, value, field)


def _first(block: bytes, layout: _Layout) -> int:
    return int.from_bytes(block[layout.offset : 2 * layout.offset], layout.order)


def _directory(block: bytes, layout: _Layout, at: int) -> _Directory:
    start = at + layout.entries
    promised = int.from_bytes(block[at:start], layout.order)
    # Pillow, too, reads a directory that is cut short as far as it goes.
    held = max(0, min(promised, (len(block) - start) // layout.field.itemsize))
    if not held:
        return _Directory(np.zeros(0, layout.field), 0)
    end = start + held * layout.field.itemsize
    fields = np.frombuffer(block, layout.field, held, start)
    return _Directory(fields, int.from_bytes(block[end : end + layout.offset], layout.order))
