"""Every kind of image opens as a browser shows it, and no damage to it gets past an ImageError."""

import hashlib
import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from worker.errors import ImageError
from worker.images import ImageLimits, open_image

SHARP = {"quality": 95, "subsampling": 0}


def face(height=32, width=48):
    """An image whose four quarters differ: uint8 (height, width, 3)."""
    whole = np.empty((height, width, 3), np.uint8)
    whole[: height // 2, : width // 2] = (200, 40, 40)
    whole[: height // 2, width // 2 :] = (40, 200, 40)
    whole[height // 2 :, : width // 2] = (40, 40, 200)
    whole[height // 2 :, width // 2 :] = (220, 220, 40)
    return whole


def saved(image, image_format, **options):
    """The file bytes of a Pillow image or an array."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def exif(orientation):
    block = Image.Exif()
    block[274] = orientation
    return block


def frames(count, image_format, **options):
    more = [Image.fromarray(np.full((32, 48, 3), 9 * number, np.uint8)) for number in range(1, count)]
    return saved(face(), image_format, save_all=True, append_images=more, **options)


def many_frames(count):
    """A GIF of `count` frames of one pixel."""
    frame = b",\0\0\0\0\x01\0\x01\0\0\x02\x02L\x01\0"
    return b"GIF89a\x01\0\x01\0\x80\0\0" + bytes(6) + frame * count + b";"


GREY = np.tile(np.arange(48, dtype=np.uint8) * 5, (32, 1))
ALPHA = np.where(np.arange(48) < 24, 0, 255).astype(np.uint8)
RGBA = np.dstack([face(), np.tile(ALPHA, (32, 1))])
OVER_WHITE = np.where(RGBA[..., 3:] == 255, face(), 255)
DEEP = np.tile(np.arange(48, dtype=np.uint16) * 1365, (32, 1))
PALETTE = Image.fromarray(face()).quantize(8)
GREY_RGB = np.dstack([GREY] * 3)
WHITE_ON_CLEAR = "transparency laid over white"


def clear_palette():
    """The first quarter's colour made transparent."""
    index = PALETTE.getpixel((0, 0))
    return saved(PALETTE, "PNG", transparency=index)


def first_quarter_white():
    pixels = face()
    pixels[:16, :24] = 255
    return pixels


# name: file bytes, expected pixels, largest difference allowed, notes
GOOD = {
    "JPEG": (saved(face(), "JPEG", **SHARP), face(), 40, ()),
    "grey JPEG": (saved(GREY, "JPEG", **SHARP), GREY_RGB, 8, ()),
    "progressive JPEG": (saved(face(), "JPEG", **SHARP, progressive=True), face(), 40, ()),
    "PNG": (saved(face(), "PNG"), face(), 0, ()),
    "interlaced sizes of one": (saved(face()[:1, :1], "PNG"), face()[:1, :1], 0, ()),
    "WebP": (saved(face(), "WEBP", lossless=True), face(), 0, ()),
    "TIFF": (saved(face(), "TIFF"), face(), 0, ()),
    "LZW TIFF": (saved(face(), "TIFF", compression="tiff_lzw"), face(), 0, ()),
    "BigTIFF": (saved(face(), "TIFF", big_tiff=True), face(), 0, ()),
    "BMP": (saved(face(), "BMP"), face(), 0, ()),
    "GIF": (saved(PALETTE, "GIF"), face(), 0, ()),
    "palette PNG": (saved(PALETTE, "PNG"), face(), 0, ()),
    "one-bit PNG": (saved(Image.fromarray(GREY > 120), "PNG"), np.dstack([(GREY > 120) * np.uint8(255)] * 3), 0, ()),
    "RGBA PNG": (saved(RGBA, "PNG"), OVER_WHITE, 0, (WHITE_ON_CLEAR,)),
    "opaque RGBA PNG": (saved(np.dstack([face(), np.full((32, 48), 255, np.uint8)]), "PNG"), face(), 0, ()),
    "RGBA WebP": (saved(RGBA, "WEBP", lossless=True, exact=True), OVER_WHITE, 0, (WHITE_ON_CLEAR,)),
    "LA PNG": (
        saved(Image.fromarray(np.dstack([GREY, RGBA[..., 3]]), "LA"), "PNG"),
        np.where(RGBA[..., 3:] == 255, GREY_RGB, 255),
        0,
        (WHITE_ON_CLEAR,),
    ),
    "palette PNG with transparency": (clear_palette(), first_quarter_white(), 0, (WHITE_ON_CLEAR,)),
    "RGB PNG with a transparent colour": (
        saved(face(), "PNG", transparency=(200, 40, 40)),
        first_quarter_white(),
        0,
        (WHITE_ON_CLEAR,),
    ),
    "GIF with transparency": (
        saved(PALETTE, "GIF", transparency=PALETTE.getpixel((0, 0))),
        first_quarter_white(),
        0,
        (WHITE_ON_CLEAR,),
    ),
    "CMYK JPEG": (
        saved(Image.fromarray(face()).convert("CMYK"), "JPEG", **SHARP),
        face(),
        60,
        ("CMYK turned into RGB without its color profile",),
    ),
    "CMYK TIFF": (
        saved(Image.fromarray(face()).convert("CMYK"), "TIFF"),
        face(),
        2,
        ("CMYK turned into RGB without its color profile",),
    ),
    "16-bit grey PNG": (saved(DEEP, "PNG"), np.dstack([DEEP / 257] * 3), 1, ("16-bit scaled to 8",)),
    "16-bit grey TIFF": (saved(DEEP, "TIFF"), np.dstack([DEEP / 257] * 3), 1, ("16-bit scaled to 8",)),
    "16-bit big-endian TIFF": (
        saved(DEEP.astype(">u2"), "TIFF"),
        np.dstack([DEEP / 257] * 3),
        1,
        ("16-bit scaled to 8",),
    ),
    "16-bit RGB PNG": (
        cv2.imencode(".png", np.dstack([DEEP] * 3))[1].tobytes(),
        np.dstack([DEEP / 257] * 3),
        1,
        ("16-bit scaled to 8",),
    ),
    "float TIFF from 0 to 1": (
        saved(GREY.astype(np.float32) / 510, "TIFF"),
        GREY_RGB / 2,
        1,
        ("32-bit floats from 0 to 1 scaled to 8 bits",),
    ),
    "float TIFF beyond": (
        saved(GREY.astype(np.float32) * 10 - 100, "TIFF"),
        GREY_RGB / 235 * 255,
        1,
        ("32-bit floats from -100 to 2250 scaled to 8 bits",),
    ),
    "32-bit TIFF": (
        saved(GREY.astype(np.int32) * 1000, "TIFF"),
        GREY_RGB / 235 * 255,
        1,
        ("32-bit integers from 0 to 235000 scaled to 8 bits",),
    ),
    "float TIFF of nothing": (
        saved(np.full((4, 4), np.nan, np.float32), "TIFF"),
        np.zeros((4, 4, 3)),
        0,
        ("32-bit floats from 0 to 1 scaled to 8 bits",),
    ),
    "animated GIF": (frames(12, "GIF"), face(), 0, ("first of 12 frames",)),
    "GIF of very many frames": (many_frames(1500), face()[:1, :1], 255, ("first of more than 1000 frames",)),
    "animated WebP": (frames(4, "WEBP", lossless=True), face(), 0, ("first of 4 frames",)),
    "animated PNG": (frames(3, "PNG"), face(), 0, ("first of 3 frames",)),
    "TIFF of many pages": (frames(5, "TIFF"), face(), 0, ("first of 5 pages",)),
    "MPO": (frames(2, "MPO", **SHARP), face(), 40, ("first of 2 images",)),
    "JPEG with bytes after its end": (saved(face(), "JPEG", **SHARP) + b"extra", face(), 40, ()),
    "JPEG with damaged EXIF": (saved(face(), "JPEG", **SHARP, exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), face(), 40, ()),
    "PNG with an orientation of 9": (saved(face(), "PNG", exif=exif(9)), face(), 0, ()),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_image_opens_as_rgb_and_says_what_was_changed(name):
    data, expected, tolerance, notes = GOOD[name]
    image = open_image(data)
    assert image.pixels.dtype == np.uint8
    assert image.pixels.flags["C_CONTIGUOUS"]
    assert image.pixels.flags["WRITEABLE"]
    assert image.pixels.shape == expected.shape == (image.height, image.width, 3)
    assert np.abs(image.pixels - expected.astype(float)).max() <= tolerance
    assert image.notes == notes
    assert image.sha256 == hashlib.sha256(data).hexdigest()


UPRIGHT = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_an_image_stands_as_its_exif_orientation_says(orientation, image_format):
    options = {"lossless": True} if image_format == "WEBP" else SHARP if image_format == "JPEG" else {}
    image = open_image(saved(face(), image_format, exif=exif(orientation), **options))
    expected = UPRIGHT[orientation](face())
    assert image.pixels.shape == expected.shape
    assert np.abs(image.pixels - expected.astype(int)).max() <= (40 if image_format == "JPEG" else 0)
    assert image.notes == ((f"rotated by EXIF orientation {orientation}",) if orientation > 1 else ())


def test_a_deep_tiff_is_turned_and_scaled():
    image = open_image(saved(DEEP, "TIFF", exif=exif(6)))
    assert np.abs(image.pixels[..., 0] - np.rot90(DEEP / 257, -1)).max() <= 1
    assert image.notes == ("16-bit scaled to 8", "rotated by EXIF orientation 6")


@pytest.mark.parametrize("part", range(1, 20))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WebP", "TIFF", "LZW TIFF", "BMP", "GIF"])
def test_a_truncated_image_is_refused(name, part):
    data = GOOD[name][0]
    # The last bytes of a GIF, PNG or JPEG only say that it ends.
    end = len(data) - {"JPEG": 60, "PNG": 20, "GIF": 20}.get(name, 8)
    with pytest.raises(ImageError):
        open_image(data[: max(1, end * part // 20)])


@given(
    st.sampled_from(sorted(GOOD)), st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=8)
)
@settings(deadline=None, max_examples=400)
def test_an_image_with_flipped_bytes_opens_or_is_refused(name, flips):
    data = bytearray(GOOD[name][0])
    for place, value in flips:
        data[int(place * len(data))] = value
    try:
        image = open_image(bytes(data), ImageLimits(max_pixels=4_000_000))
    except ImageError:
        return
    assert image.pixels.shape == (image.height, image.width, 3)
