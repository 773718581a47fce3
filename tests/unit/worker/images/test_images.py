"""Every kind of image opens as a browser shows it, and no damage to it gets past an ImageError."""

import hashlib
import io
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from worker.errors import ImageCorruptError, ImageError, ImageUnsupportedError
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
TWELVE = np.tile(np.arange(48, dtype=np.uint16) * 87, (32, 1))
"""Values of 12 bits."""
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
        ("CMYK turned into RGB without a color profile",),
    ),
    "CMYK TIFF": (
        saved(Image.fromarray(face()).convert("CMYK"), "TIFF"),
        face(),
        2,
        ("CMYK turned into RGB without a color profile",),
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
    "12 bits in a 16-bit PNG": (
        saved(TWELVE, "PNG"),
        np.dstack([TWELVE * (255 / 4095)] * 3),
        1,
        ("12-bit values in 16 bits scaled to 8",),
    ),
    "10 bits in a 16-bit RGB PNG": (
        cv2.imencode(".png", np.dstack([TWELVE // 4] * 3))[1].tobytes(),
        np.dstack([TWELVE // 4 * (255 / 1023)] * 3),
        1,
        ("10-bit values in 16 bits scaled to 8",),
    ),
    "8 bits in a 16-bit RGB TIFF": (
        cv2.imencode(".tiff", np.ascontiguousarray(face()[..., ::-1]).astype(np.uint16))[1].tobytes(),
        face(),
        0,
        ("8-bit values in 16 bits scaled to 8",),
    ),
    "AVIF": (saved(face(), "AVIF", quality=95, subsampling="4:4:4"), face(), 40, ()),
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


def profile_of(red, green, blue, gamma=2.2):
    """Return an ICC profile with these primaries (x, y), white D65 and one gamma."""
    white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
    primaries = np.stack([np.array([x / y, 1, (1 - x - y) / y]) for x, y in (red, green, blue)], axis=1)
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d50 = np.array([0.9642, 1, 0.8249])
    adapt = np.linalg.inv(bradford) @ np.diag((bradford @ d50) / (bradford @ white)) @ bradford
    columns = adapt @ (primaries * np.linalg.solve(primaries, white))

    def fixed(values):
        return b"".join(round(value * 65536).to_bytes(4, "big", signed=True) for value in values)

    name = b"Test RGB\0"
    curve = b"curv\0\0\0\0\0\0\0\1" + round(gamma * 256).to_bytes(2, "big") + b"\0\0"
    tags = {b"desc": b"desc\0\0\0\0" + len(name).to_bytes(4, "big") + name + bytes(79)}
    tags |= {b"wtpt": b"XYZ \0\0\0\0" + fixed(d50)} | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    tags |= {tag: b"XYZ \0\0\0\0" + fixed(columns[:, band]) for band, tag in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    start, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for tag, value in tags.items():
        table += tag + (start + len(body)).to_bytes(4, "big") + len(value).to_bytes(4, "big")
        body += value + bytes(-len(value) % 4)
    head = (
        (start + len(body)).to_bytes(4, "big") + b"\0\0\0\0\x02\x10\0\0mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28)
    )
    return (head + fixed(d50)).ljust(128, b"\0") + len(tags).to_bytes(4, "big") + table + body


SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
SWAPPED = (SRGB[1], SRGB[0], SRGB[2])
SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_an_embedded_profile_is_converted_to_srgb(image_format):
    options = {"lossless": True} if image_format == "WEBP" else SHARP if image_format == "JPEG" else {}
    image = open_image(saved(face(), image_format, icc_profile=profile_of(*SWAPPED), **options))
    assert image.notes == ("colors converted from Test RGB to sRGB",)
    assert np.median(np.abs(image.pixels.astype(int) - face()[..., [1, 0, 2]])) <= 8


def test_colors_of_a_wider_space_become_more_saturated():
    image = open_image(saved(np.full((8, 8, 3), (60, 200, 60), np.uint8), "PNG", icc_profile=profile_of(*ADOBE_RGB)))
    red, green, blue = image.pixels[4, 4]
    assert red < 30
    assert green >= 195
    assert blue < 60


def test_an_srgb_profile_changes_no_pixel_and_needs_no_note():
    image = open_image(saved(face(), "PNG", icc_profile=SRGB_PROFILE))
    assert np.array_equal(image.pixels, face())
    assert image.notes == ()


def test_transparency_stays_under_a_profile():
    image = open_image(saved(RGBA, "PNG", icc_profile=profile_of(*SWAPPED)))
    assert image.notes == ("colors converted from Test RGB to sRGB", WHITE_ON_CLEAR)
    assert (image.pixels[:, :24] == 255).all()


@pytest.mark.parametrize(
    "profile",
    [b"no profile", bytes(5_000_000), SRGB_PROFILE[:200], profile_of(*SRGB).replace(b"RGB XYZ", b"CMYKXYZ")],
    ids=["text", "large", "cut", "of another kind"],
)
def test_a_profile_that_cannot_be_used_is_ignored_with_a_note(profile):
    image = open_image(saved(face(), "TIFF", icc_profile=profile))
    assert np.array_equal(image.pixels, face())
    assert image.notes[0].startswith("color profile ignored")


def tiff_of(bands, bits, sample_format, *, missing=0, compression=1):
    """Return a little-endian TIFF of 4 x 3 pixels whose bands may be of any number and kind."""
    size = 4 * 3 * bands * bits // 8
    fields = [(256, 4), (257, 3), (258, bits), (259, compression), (262, 1), (273, 200), (277, bands), (278, 3)]
    fields += [(279, size), (339, sample_format)]
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in fields)
    head = b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + bytes(4)
    return head.ljust(200, b"\0") + bytes(max(size - missing, 0))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (tiff_of(3, 32, 3), "3 bands of 32-bit floats"),
        (tiff_of(5, 8, 1), "5 bands of 8-bit integers"),
        (tiff_of(1, 64, 3), "1 band of 64-bit floats"),
        (tiff_of(2, 16, 2), "2 bands of 16-bit signed integers"),
        (tiff_of(1, 8, 1, compression=34887), "compression 34887"),
    ],
)
def test_a_valid_tiff_that_cannot_be_decoded_is_unsupported_and_not_damaged(data, words):
    with pytest.raises(ImageUnsupportedError, match=words):
        open_image(data)


def test_a_tiff_whose_samples_are_missing_is_damaged():
    with pytest.raises(ImageCorruptError):
        open_image(tiff_of(3, 32, 3, missing=8))
