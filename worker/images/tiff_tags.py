"""Read TIFF directories, which EXIF uses too: orientation, pages, and whether Pillow can read them safely.

Pillow copies the bytes of every tag when it opens a file. Tags may overlap, so 64 MiB can expand to terabytes. These
functions copy nothing, stop after a fixed number of directories, and never fail: damaged parts count as absent.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, BITS, COMPRESSION, OFFSETS, ORIENTATION, BANDS, BYTE_COUNTS = 256, 257, 258, 259, 273, 274, 277, 279
TILE_OFFSETS, TILE_BYTE_COUNTS, SAMPLE_FORMAT = 324, 325, 339
SHORT, LONG = 3, 4
# Directories that Pillow reads from the first one: Exif, GPS, Interoperability.
SUB_DIRECTORIES = (34665, 34853, 40965)
MAX_SUB_DIRECTORIES = 8
# Bytes per value by field type; Pillow skips fields of other types.
TYPE_SIZES = np.array([0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8])
# Above what damaged tags of cameras claim, and far below what exhausts memory.
MAX_TAG_BYTES = 64 * 2**20


class _Layout(NamedTuple):
    """Byte order of a block, and the widths of its counts and offsets (4, or 8 in BigTIFF)."""

    order: Literal["little", "big"]
    entries: int
    offset: int
    field: np.dtype[Any]


class _Directory(NamedTuple):
    """A directory: its complete fields (tag, type, count, value as raw bytes) and the next one's offset, or 0."""

    fields: NDArray[Any]
    next_offset: int


def read_orientation(block: bytes) -> int:
    """Return the orientation, 1 to 8, of a TIFF file or EXIF block; 1 if it has none."""
    layout = _read_layout(block)
    if layout is None:
        return 1
    fields = _read_directory(block, layout, _first_offset(block, layout)).fields
    orientations = fields[(fields["tag"] == ORIENTATION) & np.isin(fields["type"], (SHORT, LONG))]
    if not orientations.size:
        return 1
    width = 2 if orientations["type"][0] == SHORT else 4
    value = int.from_bytes(orientations["value"][0][:width].tobytes(), layout.order)
    return value if 1 <= value <= 8 else 1  # noqa: PLR2004 - EXIF defines eight


def describe_samples(block: bytes) -> str | None:
    """Return what an undamaged TIFF holds, such as `3 bands of 32-bit floats`; None if image data are missing.

    Pillow does not tell damaged files from those whose samples it cannot read.
    """
    layout = _read_layout(block)
    if layout is None:
        return None
    fields = _read_directory(block, layout, _first_offset(block, layout)).fields

    def values(tag: int) -> list[int]:
        return _read_numbers(block, layout, fields[fields["tag"] == tag])

    offsets, counts = values(OFFSETS) or values(TILE_OFFSETS), values(BYTE_COUNTS) or values(TILE_BYTE_COUNTS)
    is_whole = bool(offsets) and len(offsets) == len(counts) and values(WIDTH) and values(HEIGHT)
    if not is_whole or any(start + count > len(block) for start, count in zip(offsets, counts, strict=True)):
        return None
    bands, bits = (values(BANDS) or [1])[0], (values(BITS) or [1])[0]
    kind = {1: "integers", 2: "signed integers", 3: "floats"}.get((values(SAMPLE_FORMAT) or [1])[0], "samples")
    packed = f", compression {values(COMPRESSION)[0]}" if values(COMPRESSION) not in ([], [1]) else ""
    return f"{bands} {'band' if bands == 1 else 'bands'} of {bits}-bit {kind}{packed}"


def _read_numbers(block: bytes, layout: _Layout, fields: NDArray[Any]) -> list[int]:
    """Return the values of the first of these fields if they are SHORT or LONG and lie within the block."""
    if not fields.size or fields["type"][0] not in (SHORT, LONG):
        return []
    width = int(TYPE_SIZES[fields["type"][0]])
    length = int(fields["count"][0]) * width
    data = fields["value"][0].tobytes()
    if length > layout.offset:
        start = int.from_bytes(data, layout.order)
        data = block[start : start + length]
    if len(data) < length or length > MAX_TAG_BYTES:
        return []
    return [int.from_bytes(data[at : at + width], layout.order) for at in range(0, length, width)]


def count_pages(block: bytes, at_most: int) -> int:
    """Count the directories of a TIFF file's chain, from 1 to `at_most`."""
    layout = _read_layout(block)
    pages: set[int] = set()
    offset = _first_offset(block, layout) if layout else 0
    while layout and offset and offset not in pages and len(pages) < at_most:
        pages.add(offset)
        offset = _read_directory(block, layout, offset).next_offset
    return max(len(pages), 1)


def tags_fit(block: bytes) -> bool:
    """Return whether the values of all tags that Pillow would read take about as many bytes as the block has."""
    total = 0.0
    for fields in _read_directories(block):
        value_bytes = TYPE_SIZES[np.where(fields["type"] < TYPE_SIZES.size, fields["type"], 0)]
        total += float(np.minimum(value_bytes * fields["count"].astype(np.float64), len(block)).sum())
    return total <= MAX_TAG_BYTES + 2 * len(block)


def _read_directories(block: bytes) -> Iterator[NDArray[Any]]:
    """Yield the fields of the first directory and of those it points to."""
    layout = _read_layout(block)
    if layout is None:
        return
    offsets = [_first_offset(block, layout)]
    for index in range(MAX_SUB_DIRECTORIES):
        if index == len(offsets):
            return
        fields = _read_directory(block, layout, offsets[index]).fields
        yield fields
        pointers = fields[np.isin(fields["tag"], SUB_DIRECTORIES)]["value"]
        offsets += [int.from_bytes(value.tobytes(), layout.order) for value in pointers[:MAX_SUB_DIRECTORIES]]


def _read_layout(block: bytes) -> _Layout | None:
    order: Literal["little", "big"] | None = {b"II": "little", b"MM": "big"}.get(block[:2])  # type: ignore[assignment]
    if order is None:
        return None
    big = int.from_bytes(block[2:4], order) == 43  # noqa: PLR2004 - BigTIFF; TIFF is 42
    sign = "<" if order == "little" else ">"
    count, value = (f"{sign}u8", 8) if big else (f"{sign}u4", 4)
    field = np.dtype([("tag", f"{sign}u2"), ("type", f"{sign}u2"), ("count", count), ("value", np.uint8, value)])
    return _Layout(order, 8 if big else 2, value, field)


def _first_offset(block: bytes, layout: _Layout) -> int:
    return int.from_bytes(block[layout.offset : 2 * layout.offset], layout.order)


def _read_directory(block: bytes, layout: _Layout, offset: int) -> _Directory:
    start = offset + layout.entries
    declared = int.from_bytes(block[offset:start], layout.order)
    # Like Pillow, read a truncated directory as far as it goes.
    count = max(0, min(declared, (len(block) - start) // layout.field.itemsize))
    if not count:
        return _Directory(np.zeros(0, layout.field), 0)
    end = start + count * layout.field.itemsize
    fields = np.frombuffer(block, layout.field, count, start)
    return _Directory(fields, int.from_bytes(block[end : end + layout.offset], layout.order))
