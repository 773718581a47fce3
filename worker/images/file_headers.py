"""Read image file headers before any decoder runs: format, frames, and structures that would cost too much."""

from collections.abc import Iterator
from itertools import islice

from worker.images.tiff_tags import count_pages, tags_fit

# Formats by their first bytes; Pillow may try no others.
MAGIC: dict[bytes, str] = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
}
FOREIGN: dict[bytes, str] = {
    b"PK\x03\x04": "a ZIP archive",
    b"%PDF": "a PDF",
    b"%!PS": "PostScript",
    b"8BPS": "a Photoshop file",
    b"\x00\x00\x01\x00": "a Windows icon",
    b"\x00\x00\x00\x0cjP": "JPEG 2000",
    b"\xff\x0a": "JPEG XL",
    b"\x1f\x8b": "gzip",
}
AVIF_BRANDS = (b"avif", b"avis")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
MAX_FRAMES = 1000
# Cameras write about a dozen of each; many more would keep a decoder busy for hours.
MAX_SCANS = 500
MAX_SEGMENTS = 10_000


def detect_format(data: bytes) -> str | None:
    """Return the format by the first bytes, of which there may be few, or None."""
    if data[:4] == b"RIFF"[: len(data)] and data[8:12] == b"WEBP"[: max(len(data) - 8, 0)]:
        return "WEBP"
    if data[4:8] == b"ftyp" and any(brand in AVIF_BRANDS for brand in _brands(data)):
        return "AVIF"
    # Texts may begin with "BM", too.
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in BMP_HEADERS:
        return "BMP"
    return next((name for magic, name in MAGIC.items() if data.startswith(magic) or magic.startswith(data)), None)


def _brands(data: bytes) -> list[bytes]:
    """Return the major and the compatible brands of an ISO media file."""
    length = min(int.from_bytes(data[:4], "big"), 256)
    return [data[8:12], *(data[offset : offset + 4] for offset in range(16, length, 4))]


def describe_foreign(data: bytes) -> str:
    """Return what a file of an unsupported format seems to be, for its error message."""
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<"):
        return "SVG" if b"<svg" in start else "HTML" if b"html" in start else "XML"
    if data[4:8] == b"ftyp":
        return "HEIC" if data[8:12] in HEIC_BRANDS else "a video"
    return next((name for magic, name in FOREIGN.items() if data.startswith(magic)), "of an unknown format")


def count_frames(data: bytes, image_format: str) -> int:
    """Count the frames of a GIF or the pages of a TIFF, at most MAX_FRAMES + 1; hostile ones take Pillow minutes."""
    if image_format == "TIFF":
        return count_pages(data, MAX_FRAMES + 1)
    return sum(1 for _ in islice(_gif_frames(data), MAX_FRAMES + 1))


def describe_excess(data: bytes, image_format: str) -> str | None:
    """Return why decoding would take memory or time out of proportion to the file's size, or None."""
    if image_format == "TIFF" and not tags_fit(data):
        return "tags that overlap"
    if image_format == "JPEG":
        segments = list(islice(_jpeg_segments(data), MAX_SEGMENTS + 1))
        # Pillow joins all EXIF segments into one block.
        exif = b"".join(body[6:] for marker, body in segments if marker == 0xE1 and body.startswith(b"Exif\0\0"))  # noqa: PLR2004
        if not tags_fit(exif):
            return "EXIF tags that overlap"
        if len(segments) > MAX_SEGMENTS or data.count(b"\xff\xda") > MAX_SCANS:
            return f"more than {MAX_SEGMENTS} segments or {MAX_SCANS} scans"
    return None


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (marker, body) of the segments before the first scan."""
    offset = 2
    while data[offset : offset + 1] == b"\xff" and offset + 4 <= len(data):
        marker = data[offset + 1]
        if marker == 0xDA:  # noqa: PLR2004 - the scan itself
            return
        if marker == 0xFF or marker in range(0xD0, 0xD9):  # noqa: PLR2004 - fill bytes, and markers without a body
            offset += 1 if marker == 0xFF else 2  # noqa: PLR2004
            continue
        length = int.from_bytes(data[offset + 2 : offset + 4], "big")
        yield marker, data[offset + 4 : offset + 2 + length]
        offset += 2 + max(length, 2)


def _gif_frames(data: bytes) -> Iterator[int]:
    """Yield the offset of each frame of a GIF."""
    offset = 13 + _gif_color_table_bytes(data[10:11])
    while offset < len(data):
        block = data[offset]
        if block == 0x2C:  # noqa: PLR2004 - a frame: its position, color table and code size
            yield offset
            offset += 11 + _gif_color_table_bytes(data[offset + 9 : offset + 10])
        elif block == 0x21:  # noqa: PLR2004 - an extension
            offset += 2
        else:
            return
        while offset < len(data) and data[offset]:
            offset += 1 + data[offset]
        offset += 1


def _gif_color_table_bytes(flags: bytes) -> int:
    return 3 << (flags[0] % 8 + 1) if flags and flags[0] & 0x80 else 0
