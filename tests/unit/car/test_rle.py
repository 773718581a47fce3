"""Run lengths are those of pycocotools and of Label Studio's SDK, bit for bit, and damaged ones are refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from car.errors import CarError, RleError
from car.rle import area, bbox, decode_brush, decode_coco, encode_brush, encode_coco
from evaluation.synthetic_images import blobs
from tests.support import sdk_brush as brush


def checkerboard(height, width):
    return np.indices((height, width)).sum(axis=0) % 2 == 1


def stripes(height, width, run):
    return (np.arange(height * width) // run % 2 == 1).reshape(height, width)


# Every code size of the brush (a run of n pixels is 4n values), its edges, split runs and both quirks.
MASKS = {
    "one pixel off": np.zeros((1, 1), bool),
    "one pixel on": np.ones((1, 1), bool),
    "a row": np.arange(37)[None] % 5 < 2,
    "a column": np.arange(37)[:, None] % 5 < 2,
    "all off": np.zeros((40, 50), bool),
    "all on": np.ones((40, 50), bool),
    "checkerboard": checkerboard(33, 47),
    "checkerboard of even width": checkerboard(32, 48),
    "blobs": blobs(96, 3.0),
    "noise": np.random.default_rng(1).random((90, 70)) < 0.5,
    "one pixel in a corner": np.pad(np.ones((1, 1), bool), ((63, 0), (47, 0))),
    "a run of exactly 65536 values": np.ones((128, 128), bool),
    "a run of 65540 values": stripes(2, 16385, 16385),
    "a run of 2 x 65536 values": np.ones((256, 128), bool),
    "a huge run with a short remainder": np.ones((3, 60001), bool),
    "a huge run between short ones": np.pad(np.zeros((900, 900), bool), 1, constant_values=True),
    **{f"runs of {run} pixels": stripes(60, 131, run) for run in (1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 66)},
}


@st.composite
def masks(draw):
    height, width = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    kind = draw(st.sampled_from(["noise", "stripes", "checkerboard", "blobs"]))
    if kind == "checkerboard":
        return checkerboard(height, width)
    if kind == "stripes":
        return stripes(height, width, draw(st.integers(1, 300)))
    seed = draw(st.integers(0, 2**32 - 1))
    if kind == "blobs":
        return blobs(64, draw(st.floats(0.5, 8)), seed)[:height, :width]
    return np.random.default_rng(seed).random((height, width)) < draw(st.floats(0, 1))


def assert_same_as_everyone(mask):
    height, width = mask.shape
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    ours = encode_coco(mask)
    assert ours == {"size": [height, width], "counts": theirs["counts"].decode()}
    assert np.array_equal(decode_coco(ours), mask)
    assert area(ours) == mask.sum()
    assert bbox(ours) == coco.toBbox(theirs).tolist()
    stream = encode_brush(mask)
    assert stream == brush.mask2rle(mask.astype(np.uint8) * 255)
    assert np.array_equal(decode_brush(stream, height, width), mask)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_masks_are_coded_as_by_pycocotools_and_the_sdk(mask):
    assert_same_as_everyone(mask)


@given(masks())
@settings(deadline=None, max_examples=150)
def test_any_mask_is_coded_as_by_pycocotools_and_the_sdk(mask):
    assert_same_as_everyone(mask)


def test_masks_of_any_memory_layout_are_coded_alike():
    mask = blobs(64, 2.0)
    for view in (np.asfortranarray(mask), mask[::-1, ::-1], mask[:, ::2], mask.T):
        assert_same_as_everyone(view)


def test_a_whole_byte_stream_ends_with_one_zero_byte_more():
    # Runs of three pixels take 15 bits each, behind 53 of header.
    aligned = [stripes(1, 3 * runs, 3) for runs in range(1, 40) if (53 + 15 * runs) % 8 == 0]
    for mask in aligned:
        stream = encode_brush(mask)
        assert stream[-1] == 0
        assert stream == brush.mask2rle(mask.astype(np.uint8) * 255)


def test_a_mask_without_pixels_is_coded():
    empty = np.zeros((0, 7), bool)
    assert decode_coco(encode_coco(empty)).shape == (0, 7)
    assert decode_brush(encode_brush(empty), 0, 7).shape == (0, 7)
    assert bbox(encode_coco(empty)) == [0, 0, 0, 0]


def bits_to_bytes(bits):
    return [int(bits[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(bits), 8)]


def brush_with_literals(values, sizes, group):
    """What the editor itself writes: literals where values differ, here in groups, then a run for the rest."""
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in sizes)
    for start in range(0, len(values) - 4, group):
        part = values[start : min(start + group, len(values) - 4)]
        kind = next(kind for kind, size in enumerate(sizes) if len(part) <= 2**size)
        bits += f"0{kind:02b}{len(part) - 1:0{sizes[kind]}b}" + "".join(f"{value:08b}" for value in part)
    return bits_to_bytes(bits + f"100{3:0{sizes[0]}b}{values[-1]:08b}")


@pytest.mark.parametrize("group", [1, 3, 8, 9, 100, 5000])
@pytest.mark.parametrize("sizes", [(3, 4, 8, 16), (2, 5, 9, 13), (2, 2, 2, 16)])
def test_literals_and_other_run_sizes_are_read_as_the_sdk_reads_them(group, sizes):
    alpha = np.random.default_rng(group).integers(0, 256, (20, 30), dtype=np.uint8)
    stream = brush_with_literals(np.repeat(alpha.ravel(), 4).tolist(), sizes, group)
    theirs = brush.decode_rle(stream).reshape(20, 30, 4)[..., 3]
    assert np.array_equal(theirs, alpha)
    assert np.array_equal(decode_brush(stream, 20, 30), alpha >= 128)


def test_only_the_alpha_of_a_pixel_decides():
    rgba = np.array([[255, 255, 255, 0], [0, 0, 0, 255], [9, 9, 9, 127], [0, 0, 0, 128]], np.uint8)
    stream = brush.encode_rle(rgba.ravel().astype(int))
    assert decode_brush(stream, 2, 2).tolist() == [[False, True], [False, True]]


def test_a_brush_is_read_from_any_sequence_of_bytes():
    mask = blobs(32, 2.0)
    stream = encode_brush(mask)
    for same in (tuple(stream), bytes(stream), np.array(stream)):
        assert np.array_equal(decode_brush(same, 32, 32), mask)


GOOD = encode_coco(blobs(32, 2.0))
DAMAGED_COCO = {
    "no counts": {"size": [32, 32]},
    "not a dictionary": None,
    "uncompressed counts": {"size": [2, 2], "counts": [1, 3]},
    "one side": {"size": [32], "counts": GOOD["counts"]},
    "empty counts": {"size": [32, 32], "counts": ""},
    "a space": {"size": [32, 32], "counts": " " + GOOD["counts"]},
    "letters past the alphabet": {"size": [32, 32], "counts": GOOD["counts"] + "z"},
    "letters outside ASCII": {"size": [32, 32], "counts": GOOD["counts"] + "é"},
    "cut inside a number": {"size": [32, 32], "counts": "o"},
    "an endless number": {"size": [32, 32], "counts": "o" * 4000 + "0"},
    "another size": {"size": [32, 33], "counts": GOOD["counts"]},
    "a fractional size": {"size": [32.0, 32], "counts": GOOD["counts"]},
    "a negative size": {"size": [-32, -32], "counts": GOOD["counts"]},
    "a negative run": {"size": [2, 2], "counts": "5O"},
    "more pixels than fit": {"size": [10**9, 10**9], "counts": "0"},
}


@pytest.mark.parametrize("rle", DAMAGED_COCO.values(), ids=DAMAGED_COCO)
def test_damaged_coco_counts_are_refused(rle):
    for read in (decode_coco, area, bbox):
        with pytest.raises(RleError):
            read(rle)


@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=30), st.integers(0, 9))
@settings(deadline=None)
def test_any_counts_are_a_mask_or_refused(counts, width):
    try:
        mask = decode_coco({"size": [3, width], "counts": counts})
    except CarError:
        return
    assert mask.shape == (3, width)


STREAM = encode_brush(blobs(32, 2.0))
DAMAGED_BRUSH = {
    "empty": [],
    "half a header": STREAM[:6],
    "cut short": STREAM[:-3],
    "header alone": STREAM[:7],
    "text": "0000",
    "a number": 7,
    "numbers above 255": [256, *STREAM[1:]],
    "fractions": [0.5, *STREAM[1:]],
    "another word size": [*STREAM[:4], STREAM[4] ^ 0x80, *STREAM[5:]],
    "a run past the last pixel": encode_brush(np.ones((32, 32), bool))[:7] + [0b11111111] * 9,
    "another size": encode_brush(np.ones((31, 32), bool)),
}


@pytest.mark.parametrize("stream", DAMAGED_BRUSH.values(), ids=DAMAGED_BRUSH)
def test_damaged_brushes_are_refused(stream):
    with pytest.raises(RleError):
        decode_brush(stream, 32, 32)


@given(st.binary(max_size=60), st.integers(1, 6))
@settings(deadline=None, max_examples=300)
def test_any_bytes_behind_a_header_are_a_mask_or_refused(tail, width):
    header = encode_brush(np.ones((2, width), bool))[:6]
    try:
        mask = decode_brush([*header, *tail], 2, width)
    except CarError:
        return
    assert mask.shape == (2, width)


@pytest.mark.parametrize("mask", [np.zeros((2, 2), np.uint8), np.zeros(4, bool), np.zeros((2, 2, 1), bool)])
def test_only_boolean_masks_are_coded(mask):
    for write in (encode_coco, encode_brush):
        with pytest.raises(RleError, match="bool"):
            write(mask)
