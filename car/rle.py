"""Masks as run lengths: COCO's compressed counts, and Label Studio's brush bit stream.

Both are bit-exact with the programs that defined them, pycocotools (`rleToString` in maskApi.c) and
`label_studio_sdk.converter.brush` (`mask2rle`; the stream is thi.ng's rle-pack). No Python runs per
pixel, and only one table look-up per code when a brush is read, where each code's place hangs on the one before.
"""

from collections.abc import Sequence
from typing import Final, TypedDict

import numpy as np
from numpy.typing import NDArray

from car.errors import RleError

# A brush counts four values a pixel in 32 bits, so no brush holds more; COCO gets the same bound.
MAX_PIXELS: Final = 2**30 - 1
# Seven groups of five bits hold every 32-bit count and every difference of two.
MAX_DIGITS: Final = 7
CHANNELS: Final = 4
LONGEST_RUN: Final = 2**16
# The format lets a writer choose these; Label Studio always writes the same.
RUN_SIZES: Final = (3, 4, 8, 16)
WORD_SIZE: Final = 8
HEADER_BITS: Final = 53
# A pixel counts as painted from this alpha on: half, as in the SDK's `image2rle`.
PAINTED: Final = 128

Mask = NDArray[np.bool_]
Integers = NDArray[np.int64]


class CocoRle(TypedDict):
    """COCO's compressed run lengths; `size` is [height, width], `counts` runs down the columns."""

    size: list[int]
    counts: str


# ---- COCO ----


def encode_coco(mask: Mask) -> CocoRle:
    """`mask` bool (h, w) -> COCO RLE, the very string of `pycocotools.mask.encode`."""
    height, width = _shape_of(mask)
    flat = mask.ravel(order="F")
    lengths, _ = _runs(flat)
    # Runs alternate and the first one is of zeros, if only of none.
    counts = lengths if flat.size and not flat[0] else np.concatenate(([0], lengths))
    deltas = counts.copy()
    deltas[3:] -= counts[1:-2]
    return {"size": [height, width], "counts": _write_digits(deltas)}


def decode_coco(rle: CocoRle) -> Mask:
    """COCO RLE -> bool (h, w), C-contiguous."""
    ends, height, width = _read_coco(rle)
    counts = np.diff(ends, prepend=0)
    flat = np.repeat(np.arange(counts.size) % 2 == 1, counts)
    return np.ascontiguousarray(flat.reshape(width, height).T)


def area(rle: CocoRle) -> int:
    """How many pixels the mask holds."""
    return int(np.diff(_read_coco(rle)[0], prepend=0)[1::2].sum())


def bbox(rle: CocoRle) -> list[int]:
    """[x, y, width, height] of the tightest box, as `pycocotools.mask.toBbox`; zeros for an empty mask."""
    ends, height, _ = _read_coco(rle)
    paired = ends[: ends.size // 2 * 2]
    first, last = paired[0::2], paired[1::2] - 1
    first, last = first[last >= first], last[last >= first]
    if not first.size:
        return [0, 0, 0, 0]
    left, right = int(first[0] // height), int(last[-1] // height)
    top, bottom = int((first % height).min()), int((last % height).max())
    if np.any(first // height != last // height):  # a run that goes on into the next column touches both edges
        top, bottom = 0, height - 1
    return [left, top, right - left + 1, bottom - top + 1]


def _write_digits(values: Integers) -> str:
    """Each value as five-bit digits, lowest first, bit 5 says "more follows", offset into ASCII by 48."""
    magnitude = values ^ (values >> 63)
    digits = np.ones(values.size, np.int64)
    for digit in range(1, MAX_DIGITS):
        digits += magnitude >= 1 << (5 * digit - 1)
    at = np.cumsum(digits) - digits
    text = np.empty(int(digits.sum()), np.uint8)
    for digit in range(int(digits.max())):
        held = digits > digit
        more = (digits[held] > digit + 1).astype(np.int64) << 5
        text[at[held] + digit] = (((values[held] >> (5 * digit)) & 31) | more) + 48
    return text.tobytes().decode("ascii")


def _read_digits(counts: str | bytes) -> Integers:
    """The values that `_write_digits` wrote."""
    values: Integers
    try:
        text = counts if isinstance(counts, bytes) else counts.encode("ascii")
    except (AttributeError, UnicodeEncodeError):
        raise RleError("COCO counts must be the compressed string; encode the mask with pycocotools") from None
    digits = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not digits.size or digits.min() < 0 or digits.max() > 63:  # noqa: PLR2004 - six bits
        raise RleError("COCO counts are empty or hold a character outside '0' to 'o'; the string is damaged")
    stops = np.flatnonzero(digits < 32)  # noqa: PLR2004 - bit 5
    starts = np.concatenate(([0], stops[:-1] + 1)) if stops.size else stops
    if not stops.size or stops[-1] != digits.size - 1 or int((stops - starts).max()) >= MAX_DIGITS:
        raise RleError("COCO counts end inside a number or hold one above 32 bits; the string is cut short or damaged")
    sizes = stops - starts + 1
    place = 5 * (np.arange(digits.size) - np.repeat(starts, sizes))
    values = np.add.reduceat((digits & 31) << place, starts)
    values -= (digits[stops] & 16) >> 4 << 5 * sizes
    return values


def _read_coco(rle: CocoRle) -> tuple[Integers, int, int]:
    """(ends, height, width): where the runs end, in pixels down the columns; never falling, the last at the end."""
    try:
        (height, width), counts = rle["size"], rle["counts"]
    except (KeyError, TypeError, ValueError):
        raise RleError('a COCO RLE is {"size": [height, width], "counts": "..."}; this is not') from None
    _check_size(height, width)
    deltas = _read_digits(counts)
    deltas[1::2] = np.cumsum(deltas[1::2])
    deltas[2::2] = np.cumsum(deltas[2::2])
    ends = np.cumsum(deltas)
    if deltas.min() < 0 or ends[-1] != height * width:
        raise RleError(f"COCO counts describe {ends[-1]} pixels, size says {height} x {width}: another image's?")
    return ends, height, width


# ---- Label Studio brush ----


def encode_brush(mask: Mask) -> list[int]:
    """`mask` bool (h, w) -> brush RLE bytes of its RGBA image (0 or 255), as `brush.mask2rle` writes them."""
    height, width = _shape_of(mask)
    if height * width > MAX_PIXELS:
        raise RleError(f"a brush holds at most {MAX_PIXELS} pixels; {height} x {width} is more, so tile the image")
    lengths, painted = _runs(mask.ravel())
    lengths, painted, split = _split_long_runs(lengths * CHANNELS, painted)
    kind = (lengths > 8).astype(np.int64) + (lengths > 16) + (lengths > 256)  # noqa: PLR2004 - 2 ** RUN_SIZES
    kind[split] = 3
    size = np.asarray(RUN_SIZES)[kind]
    codes = (((4 | kind) << size | (lengths - 1)) << WORD_SIZE) | (painted * 255)
    # The header is two codes more: 32 bits of count, then 5 + 4 x 4 bits of widths, each less one.
    widths = WORD_SIZE - 1
    for run_size in RUN_SIZES:
        widths = widths << 4 | (run_size - 1)
    codes = np.concatenate(([height * width * CHANNELS, widths], codes))
    return list(_pack(codes.astype(np.uint64), np.concatenate(([32, 21], 3 + size + WORD_SIZE))))


def decode_brush(rle: Sequence[int], height: int, width: int) -> Mask:
    """Brush RLE bytes -> bool (h, w): where alpha is at least half. Reads literals and other run sizes too."""
    _check_size(height, width)
    stream = _BrushStream(_bytes_of(rle))
    if stream.values != height * width * CHANNELS:
        raise RleError(
            f"the brush holds {stream.values} values, {height} x {width} needs {height * width * CHANNELS}; "
            "give it the original height and width of its image"
        )
    lengths, values = stream.chunks()
    ends = np.cumsum(lengths)
    # Anything after the last value is padding.
    needed = int(np.searchsorted(ends, stream.values)) + 1 if stream.values else 0
    if needed > ends.size or (needed and ends[needed - 1] != stream.values):
        raise RleError("the brush ends before its last pixel or runs past it; it is cut short or damaged")
    # Alpha is every fourth value, so a run that ends at e has passed e // 4 of them.
    alphas = np.diff(ends[:needed] // CHANNELS, prepend=0)
    return np.repeat(values[:needed] >= PAINTED, alphas).reshape(height, width)


def _split_long_runs(lengths: Integers, painted: Mask) -> tuple[Integers, Mask, Mask]:
    """Runs of at most 65536 values; the third array marks the parts of a split run, whose remainder stays 16-bit."""
    parts = (lengths - 1) // LONGEST_RUN + 1
    if not lengths.size or int(parts.max()) == 1:
        return lengths, painted, np.zeros(lengths.size, np.bool_)
    remainder = lengths - (parts - 1) * LONGEST_RUN
    split = np.repeat(parts > 1, parts)
    whole = np.full(split.size, LONGEST_RUN, np.int64)
    whole[np.cumsum(parts) - 1] = remainder
    return whole, np.repeat(painted, parts), split


def _pack(codes: NDArray[np.uint64], sizes: Integers) -> bytes:
    """Codes of `sizes` bits (at most 32), one after the other, highest bit first, then 1 to 8 bits of zeros."""
    ends = np.cumsum(sizes)
    word, place = np.divmod(ends - sizes, 64)
    spare = 64 - place - sizes
    over = np.maximum(-spare, 0).astype(np.uint64)
    words = np.zeros(int(ends[-1]) // 64 + 2, np.uint64)
    # No code is longer than a word, so every word but the last begins at least one: group the codes by word.
    first = np.flatnonzero(np.diff(word, prepend=-1))
    heads = codes << np.maximum(spare, 0).astype(np.uint64) >> over
    words[word[first]] = np.bitwise_or.reduceat(heads, first)
    spilled = np.flatnonzero(over)
    words[word[spilled] + 1] |= codes[spilled] << (np.uint64(64) - over[spilled])
    # The SDK pads an already whole stream with one zero byte more.
    return words.astype(">u8").tobytes()[: int(ends[-1]) // 8 + 1]


class _BrushStream:
    """The header of a brush and, on demand, its codes."""

    def __init__(self, data: bytes) -> None:
        self.bits = len(data) * 8
        self.data = data + bytes(8)  # every read may look a word ahead
        if self.bits < HEADER_BITS:
            raise RleError("a brush begins with 53 bits of header; this one is shorter")
        self.values = self._read(0, 32)
        if self._read(32, 5) + 1 != WORD_SIZE:
            raise RleError("a brush of Label Studio holds 8-bit values; this one holds others")
        self.run_sizes = np.array([self._read(37 + 4 * size, 4) + 1 for size in range(4)])

    def chunks(self) -> tuple[Integers, Integers]:
        """(lengths, values 0..255) of all runs; each value of a literal is a run of one."""
        at = np.array(self._codes(), np.int64)
        head = self._gather(at, 3)
        size = self.run_sizes[head & 3]
        count = (self._gather(at + 3, 16) >> (16 - size)) + 1
        run = head >= 4  # noqa: PLR2004 - the flag bit
        value_at = at + 3 + size
        if run.all():
            return count, self._gather(value_at, WORD_SIZE)
        pieces = np.where(run, 1, count)
        inside = np.arange(int(pieces.sum())) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        lengths = np.repeat(np.where(run, count, 1), pieces)
        return lengths, self._gather(np.repeat(value_at, pieces) + WORD_SIZE * inside, WORD_SIZE)

    def _codes(self) -> list[int]:
        """Bit positions of the whole codes: a code's length follows from its first three bits, unless it is literal."""
        steps = self._steps()
        last = self.bits - (3 + int(self.run_sizes.min()) + WORD_SIZE)
        codes: list[int] = []
        found = codes.append
        at = HEADER_BITS
        while at <= last:
            found(at)
            at += steps[at] or self._literal(at)
        if at > self.bits:
            codes.pop()
        return codes

    def _steps(self) -> bytes:
        """For every bit, the length of the run code that would begin there; 0 for a literal."""
        head = (np.arange(1024)[:, None] >> np.arange(7, -1, -1)) & 7
        lengths = np.where(head & 4, 3 + self.run_sizes[head & 3] + WORD_SIZE, 0)
        # Ten bits tell the eight codes that may begin in a byte: look all eight up as one 64-bit word.
        table = lengths.astype(np.uint8).view(np.uint64)[:, 0]
        data = np.frombuffer(self.data, np.uint8).astype(np.uint16)
        return bytes(table[data[:-1] << 2 | data[1:] >> 6])

    def _literal(self, at: int) -> int:
        size = int(self.run_sizes[self._read(at + 1, 2)])
        return 3 + size + (self._read(at + 3, size) + 1) * WORD_SIZE

    def _read(self, at: int, size: int) -> int:
        """`size` (at most 32) bits at bit `at`."""
        window = int.from_bytes(self.data[at // 8 : at // 8 + 5], "big")
        return window >> (40 - at % 8 - size) & ((1 << size) - 1)

    def _gather(self, at: Integers, size: int) -> Integers:
        """`size` (at most 16) bits at each bit of `at`."""
        data = np.frombuffer(self.data, np.uint8).astype(np.int64)
        byte = at >> 3
        window = data[byte] << 16 | data[byte + 1] << 8 | data[byte + 2]
        bits: Integers = window >> (24 - size - (at & 7)) & ((1 << size) - 1)
        return bits


def _runs(flat: Mask) -> tuple[Integers, Mask]:
    """(lengths, values) of the runs of a flat mask."""
    if not flat.size:
        return np.zeros(0, np.int64), flat
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    return np.diff(starts, append=flat.size), flat[starts]


def _bytes_of(rle: Sequence[int]) -> bytes:
    try:
        return bytes(rle if isinstance(rle, list | bytes) else list(rle))
    except (TypeError, ValueError):
        raise RleError("a brush RLE is a list of integers from 0 to 255; this is not") from None


def _shape_of(mask: Mask) -> tuple[int, int]:
    if mask.ndim != 2 or mask.dtype != np.bool_:  # noqa: PLR2004 - rows and columns
        raise RleError(f"a mask is bool (height, width); this is {mask.dtype} {mask.shape}")
    return mask.shape[0], mask.shape[1]


def _check_size(height: object, width: object) -> None:
    if isinstance(height, int) and isinstance(width, int) and min(height, width) >= 0 and height * width <= MAX_PIXELS:
        return
    raise RleError(f"{height!r} x {width!r} is no size of a mask: whole numbers, at most {MAX_PIXELS} pixels")
