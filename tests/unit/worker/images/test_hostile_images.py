"""A hostile file is refused in words: no bare decoder error, no warning, no memory or time without bound."""

import io
import struct
import threading
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from worker.errors import ImageCorruptError, ImageError, ImageTooLargeError, ImageUnsupportedError
from worker.images import ImageLimits, decode, open_image


def saved(pixels, image_format):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, image_format)
    return file.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth, colour, rows, *, extra=b""):
    """A PNG of raw unfiltered `rows` (bytes), or of whatever zlib data `rows` says when it is a tuple."""
    idat = rows[0] if isinstance(rows, tuple) else zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", idat) + chunk(b"IEND", b"")


def bomb_png(side):
    """A PNG of side x side pixels of 1 bit, a few kilobytes long."""
    packer = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    idat = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    return png(side, side, 1, 0, (idat,))


def tiff(tags, body=b"", following=0, order="<"):
    """A TIFF of one directory with `tags` (tag, type, count, value) and `body` after it."""
    # A short value lies at the front of its field.
    front = 16 if order == ">" else 0
    entries = b"".join(
        struct.pack(order + "HHII", tag, kind, count, value << front if kind == 3 else value)
        for tag, kind, count, value in tags
    )
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(order + "HIH", 42, 8, len(tags))
    return head + entries + struct.pack(order + "I", following) + body


def grey_tiff_tags(width, height, strip_at, strip_bytes):
    return [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, strip_at),
        (277, 3, 1, 1),
        (278, 4, 1, height),
        (279, 4, 1, strip_bytes),
    ]


def overlapping_tags(count, size):
    """A TIFF block of a few hundred kilobytes whose `count` tags each claim the same `size` bytes."""
    return tiff([(40000 + number % 20000, 7, size, 8) for number in range(count)], bytes(size))


def jpeg_with(segment, jpeg):
    """`jpeg` with an APP1 `segment` right after its start."""
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


FACE = np.tile(np.arange(48, dtype=np.uint8)[:, None] * 5, (32, 1, 3))
JPEG = saved(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), "JPEG")
PNG = saved(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), "PNG")
IDAT = PNG.index(b"IDAT")
SCAN = JPEG.index(b"\xff\xda")
HUGE = (
    (png(30_000, 30_000, 8, 2, (b"",)), "PNG"),
    (tiff(grey_tiff_tags(2**31 - 1, 2**31 - 1, 122, 4)), "TIFF"),
    (tiff(grey_tiff_tags(60_000, 1000, 122, 4), bytes(4)), "TIFF"),
    (
        b"GIF89a"
        + struct.pack("<HH", 65535, 65535)
        + b"\0\0\0,"
        + struct.pack("<HHHH", 0, 0, 65535, 65535)
        + b"\0\x02\x02L\x01\0;",
        "GIF",
    ),
    (b"BM" + struct.pack("<IIIIiiHHIIIIII", 58, 0, 54, 40, 50_000, 50_000, 1, 24, 0, 4, 0, 0, 0, 0) + bytes(4), "BMP"),
    (b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\x3f\x00" * 2, "WEBP"),
    (JPEG.replace(b"\x08\x00\x40\x00\x40\x03", b"\x08\xff\xff\xff\xff\x03"), "JPEG"),
)

HOSTILE = {
    "no bytes": (b"", ImageCorruptError),
    "a ZIP archive": (b"PK\x03\x04" + bytes(60), ImageUnsupportedError),
    "an SVG": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', ImageUnsupportedError),
    "a page of HTML": (b"\xef\xbb\xbf<!DOCTYPE html><html><body>404</body></html>", ImageUnsupportedError),
    "a PDF": (b"%PDF-1.7\n", ImageUnsupportedError),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(40), ImageUnsupportedError),
    "a Windows icon": (saved(FACE, "ICO"), ImageUnsupportedError),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", ImageUnsupportedError),
    "a portable pixmap": (saved(FACE, "PPM"), ImageUnsupportedError),
    "JPEG 2000": (saved(FACE, "JPEG2000"), ImageUnsupportedError),
    "plain text": (b"BM is how this sentence begins, and it is no bitmap", ImageUnsupportedError),
    "noise": (np.random.default_rng(3).bytes(4000), ImageUnsupportedError),
    "a bomb of 400 Mpx in 50 KB": (bomb_png(20_000), ImageTooLargeError),
    "a bomb under Pillow's limit": (bomb_png(11_000), ImageTooLargeError),
    "a very wide image": (png(12_001, 1, 1, 0, [bytes(1501)]), ImageTooLargeError),
    **{f"a huge {name} header, {number}": (data, ImageTooLargeError) for number, (data, name) in enumerate(HUGE)},
    "a PNG without pixels": (png(0, 0, 8, 2, (b"",)), ImageCorruptError),
    "a PNG with a wrong check sum": (PNG[: IDAT + 40] + b"\x55" + PNG[IDAT + 41 :], ImageCorruptError),
    "a PNG with broken compression": (png(64, 64, 8, 2, (b"\x78\x9c" + b"\xff" * 90,)), ImageCorruptError),
    "a PNG header of an unknown depth": (png(8, 8, 3, 2, (b"",)), ImageCorruptError),
    "a PNG whose text expands without end": (
        png(8, 8, 8, 0, [bytes(8)] * 8, extra=chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80_000_000), 9))),
        ImageCorruptError,
    ),
    "a PNG palette image without palette": (png(8, 8, 8, 3, (b"",)), ImageCorruptError),
    "a JPEG of its header": (JPEG[:SCAN], ImageCorruptError),
    "a JPEG of three bytes": (JPEG[:3], ImageCorruptError),
    "a JPEG of a thousand scans": (JPEG[:-2] + JPEG[SCAN:-2] * 1000 + JPEG[-2:], ImageCorruptError),
    "a JPEG of endless segments": (JPEG[:2] + b"\xff\xe5\0\x02" * 20_000 + JPEG[2:], ImageCorruptError),
    "a TIFF whose tags overlap": (overlapping_tags(20_000, 60_000), ImageCorruptError),
    "a JPEG whose EXIF tags overlap": (
        jpeg_with(b"Exif\0\0" + overlapping_tags(2700, 32_000), JPEG),
        ImageCorruptError,
    ),
    "a TIFF that points past its end": (tiff(grey_tiff_tags(48, 32, 10**9, 48 * 32)), ImageCorruptError),
    "a TIFF without tags": (tiff([]), ImageCorruptError),
    "a TIFF that points at itself": (b"II*\0\x08\0\0\0" + b"\0\0\x08\0\0\0", ImageCorruptError),
    "a TIFF of an unknown compression": (
        tiff([(*tag[:3], 65000) if tag[0] == 259 else tag for tag in grey_tiff_tags(4, 4, 122, 16)], bytes(16)),
        ImageUnsupportedError,
    ),
    "a GIF without a frame": (b"GIF89a\x08\0\x08\0\0\0\0;", ImageCorruptError),
    "a BMP of a negative width": (
        b"BM" + struct.pack("<IIIIiiHHIIIIII", 58, 0, 54, 40, -5, 5, 1, 24, 0, 4, 0, 0, 0, 0) + bytes(400),
        ImageError,
    ),
    "a WebP of its header": (saved(FACE, "WEBP")[:20], ImageCorruptError),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_words_and_without_a_warning(name):
    data, refusal = HOSTILE[name]
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        with pytest.raises(refusal) as refused:
            open_image(data)
    assert not leaked
    message = str(refused.value)
    assert message.startswith("the image ")
    assert ";" in message  # what is wrong; what to do


def test_an_error_calls_bytes_what_the_caller_calls_them():
    with pytest.raises(ImageUnsupportedError, match=r"^s3://bucket/key\.jpg is a PDF"):
        open_image(b"%PDF-1.7", name="s3://bucket/key.jpg")


def test_limits_are_those_given():
    data = saved(FACE, "PNG")
    assert open_image(data, ImageLimits(max_pixels=48 * 32, max_side=48, max_bytes=len(data))).width == 48
    for limits, words in (
        (ImageLimits(max_pixels=48 * 32 - 1), "48 x 32 pixels"),
        (ImageLimits(max_side=47), "48 x 32 pixels"),
        (ImageLimits(max_bytes=len(data) - 1), "MiB"),
    ):
        with pytest.raises(ImageTooLargeError, match=words):
            open_image(data, limits)


@given(
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0\x08\0\0\0", b"MM\0+", b"GIF89a"]),
    st.binary(max_size=400),
)
@settings(deadline=None, max_examples=200)
def test_any_bytes_behind_a_known_beginning_open_or_are_refused(magic, tail):
    try:
        image = open_image(magic + tail, ImageLimits(max_pixels=4_000_000))
    except ImageError:
        return
    assert image.pixels.shape == (image.height, image.width, 3)


ODD = png(8, 4, 8, 2, [bytes(24)] * 4, extra=chunk(b"acTL", struct.pack(">II", 0, 0)))
"""A good PNG that claims to be an animation without frames, of which Pillow warns."""


def fate(name):
    """What becomes of a hostile file: its error's type and message."""
    try:
        open_image(HOSTILE[name][0])
    except ImageError as error:
        return type(error), str(error)
    raise AssertionError(name)


def test_eight_threads_refuse_hostile_files_as_one_does_and_leave_the_filters_alone():
    alone, filters = {name: fate(name) for name in HOSTILE}, list(warnings.filters)
    with ThreadPoolExecutor(8) as threads:
        rounds = [threads.map(fate, HOSTILE) for _ in range(4)]
        good = [threads.submit(open_image, data) for data in (ODD, JPEG, PNG) * 20]
        assert all(dict(zip(HOSTILE, fates, strict=True)) == alone for fates in rounds)
        assert all(one.result().width in (8, 64) for one in good)
    assert warnings.filters == filters


class MeetingFile(io.BytesIO):
    """Bytes that nobody gets before another thread asks for theirs."""

    meeting = threading.Barrier(2, timeout=20)
    met = False

    def read(self, size=-1):
        if not self.met:
            self.met = True
            self.meeting.wait()
        return super().read(size)


def test_two_threads_decode_at_the_same_time(monkeypatch):
    monkeypatch.setattr(decode, "BytesIO", MeetingFile)
    with ThreadPoolExecutor(2) as threads:
        assert [image.width for image in threads.map(open_image, [PNG, JPEG])] == [64, 64]


def test_a_thread_that_decodes_silences_no_other(monkeypatch):
    monkeypatch.setattr(decode, "BytesIO", MeetingFile)
    with ThreadPoolExecutor(1) as threads, warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        decoding = threads.submit(open_image, ODD)
        while not MeetingFile.meeting.n_waiting:
            time.sleep(0.001)
        with Image.open(io.BytesIO(ODD)) as odd:  # Pillow itself, as any library might use it
            odd.load()
        assert not decoding.done()
        MeetingFile.meeting.wait()
        assert decoding.result().width == 8
    assert [(str(one.message).split(",")[0], one.filename.rpartition("/")[2]) for one in heard] == [
        ("Invalid APNG", "PngImagePlugin.py")
    ]
