"""Prompted crops, on the host and on a device: the pixels of the reference drawing, bit for bit."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from car.presets import preset
from car.recipe import Recipe, VisualPrompt
from worker.segmenter import classifier
from worker.segmenter.classifier import Crops
from worker.segmenter.prompts import prompt_outlines
from worker.segmenter.prompts.device_prompts import DevicePrompts
from worker.segmenter.prompts.host_prompts import HostPrompts
from worker.segmenter.prompts.prompting import Prompter
from worker.segmenter.prompts.visual_prompts import RED, PromptSource, apply_prompts, prepare
from worker.segmenter.resampling import taps
from worker.segmenter.resizing import enlarge, shrunk

VOC = preset("voc")
PAPER_GRAY = VOC.with_settings({"gray_weights": "paper"})
COMBINATIONS = [some for many in range(1, 7) for some in itertools.combinations(VisualPrompt, many)]
CPU = torch.device("cpu")

Make = Callable[[PromptSource, int], Prompter]
MAKERS = [
    pytest.param(HostPrompts, id="host"),
    pytest.param(lambda behind, size: DevicePrompts(behind, size, CPU), id="device"),
    # Three masks at a time.
    pytest.param(
        lambda behind, size: DevicePrompts(behind, size, CPU, at_once=3 * behind.image[..., 0].size), id="device-pieces"
    ),
]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise of all bytes, half of it black or white: it overflows the bicubic on both sides."""
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image[:, : width // 2] = random.integers(0, 2, (height, width // 2, 3)) * 255
    return image


def blob(height: int, width: int, seed: int, eta: float = 0.5) -> np.ndarray:
    return enlarge(np.random.default_rng(seed).random((5, 6), dtype=np.float32), height, width) > eta


def masks(height: int, width: int) -> list[np.ndarray]:
    """Empty, whole, a pixel, the four borders, a frame with an island in its hole, noise, blobs."""

    def empty() -> np.ndarray:
        return np.zeros((height, width), bool)

    some = [empty(), ~empty(), *(empty() for _ in range(6))]
    some[2][height // 3, width // 4] = True
    some[3][0], some[4][-1], some[5][:, 0], some[6][:, -1] = True, True, True, True
    frame = some[7]
    frame[height // 8 : -(height // 8) - 1, width // 8 : -(width // 8) - 1] = True
    frame[height // 4 : -(height // 4) - 1, width // 4 : -(width // 4) - 1] = False
    frame[height // 2, width // 2] = True
    random = np.random.default_rng(5)
    return [*some, random.random((height, width)) > 0.5, random.random((height, width)) > 0.98] + [
        blob(height, width, seed, eta) for seed, eta in enumerate((0.3, 0.5, 0.7, 0.85))
    ]


def reference(behind: PromptSource, mask: np.ndarray | None, size: int) -> np.ndarray:
    return classifier.crop(behind.image if mask is None else apply_prompts(behind, mask), size)


def differing(made: Crops, behind: PromptSource, some: list[np.ndarray | None], size: int) -> list[int]:
    """Masks, by number, whose crops are not the reference's."""
    assert made.shape == (len(some), size, size, 3)
    pairs = zip(made.numpy(), some, strict=True)
    return [k for k, (crop, mask) in enumerate(pairs) if (crop != reference(behind, mask, size)).any()]


def check(make: Make, image: np.ndarray, prompts: tuple[VisualPrompt, ...], size: int, recipe: Recipe = VOC) -> None:
    behind = prepare(image, prompts, recipe)
    some = [*masks(*image.shape[:2]), None]
    made = make(behind, size).crops([None if mask is None else np.packbits(mask) for mask in some])
    assert differing(made, behind, some, size) == []


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("prompts", COMBINATIONS, ids="+".join)
def test_every_combination_of_prompts_is_the_reference_drawing(make: Make, prompts: tuple[VisualPrompt, ...]) -> None:
    check(make, picture(61, 83), prompts, 28)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("prompts", [("gray",), ("blur", "gray"), ("gray", "circle", "contour")], ids="+".join)
def test_gray_by_the_papers_weights_is_the_reference_drawing(make: Make, prompts: tuple[str, ...]) -> None:
    image, chosen = picture(61, 83), tuple(VisualPrompt(prompt) for prompt in prompts)
    official, paper = (prepare(image, chosen, recipe).outside for recipe in (VOC, PAPER_GRAY))
    assert (official != paper).any()
    check(make, image, chosen, 28, PAPER_GRAY)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (384, 512, 224),
        (375, 500, 224),
        (500, 333, 224),  # portrait
        (301, 97, 56),  # so tall that some versions of Pillow resize it in the other order
        (97, 301, 56),
        (40, 61, 56),  # enlarged
        (120, 7, 56),
        (56, 56, 56),  # as large as the crop
        (57, 56, 56),
        (9, 9, 28),
        (1, 1, 14),
    ],
)
def test_every_size_is_the_reference_drawing(make: Make, height: int, width: int, size: int) -> None:
    prompts = (VisualPrompt.BLUR, VisualPrompt.GRAY, VisualPrompt.CIRCLE, VisualPrompt.RECTANGLE, VisualPrompt.CONTOUR)
    check(make, picture(height, width), prompts, size)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("max_side", [64, 101])
def test_a_picture_shrunk_to_max_side_is_the_reference_drawing(make: Make, max_side: int) -> None:
    check(make, shrunk(picture(140, 211), max_side), VOC.visual_prompts, 56)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("prompts", [("contour",), ("blur", "circle")], ids="+".join)
def test_a_picture_that_may_not_be_written_to_or_lies_otherwise_is_drawn_too(
    make: Make, prompts: tuple[str, ...]
) -> None:
    image = picture(83, 61).transpose(1, 0, 2)[::-1]
    image.flags.writeable = False
    check(make, image, tuple(VisualPrompt(prompt) for prompt in prompts), 28)


@pytest.mark.parametrize("make", MAKERS)
def test_no_mask_makes_no_crop(make: Make) -> None:
    made = make(prepare(picture(30, 40), VOC.visual_prompts, VOC), 28).crops([])
    assert made.shape == (0, 28, 28, 3)
    assert made.dtype == torch.uint8


@pytest.mark.parametrize("seed", range(30))
def test_lines_stay_in_the_box_that_is_told(seed: int) -> None:
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 80, 2)
    mask = np.zeros((height, width), np.uint8)
    y, x = random.integers(height), random.integers(width)
    mask[y : y + random.integers(1, 60), x : x + random.integers(1, 60)] = 1
    mask[random.integers(height), random.integers(width)] = 1  # the centroid is not the centre of the box
    canvas = np.zeros_like(mask)
    left, top, right, bottom = prompt_outlines.draw_outlines(canvas, mask, tuple(VisualPrompt), 1)
    touched = (canvas | mask).astype(bool)
    assert touched.any()
    touched[top:bottom, left:right] = False
    assert not touched.any()


def test_lines_on_a_canvas_of_bits_are_those_on_a_picture() -> None:
    image = np.zeros((61, 83, 3), np.uint8)
    for prompts in COMBINATIONS:
        lines = tuple(prompt for prompt in prompts if prompt in prompt_outlines.LINES)
        for mask in masks(61, 83):
            canvas = np.zeros((61, 83), np.uint8)
            prompt_outlines.draw_outlines(canvas, mask.astype(np.uint8), prompts, 1)
            shown = apply_prompts(PromptSource(image, image, lines), mask)
            assert ((shown == RED).all(-1) == canvas.astype(bool)).all()


@pytest.mark.parametrize(("height", "width"), [(384, 512), (375, 500), (500, 333), (61, 83), (90, 45)])
def test_a_crop_is_one_resize_of_pillow_and_the_centre_square(height: int, width: int) -> None:
    image, size = picture(height, width), 56
    short = min(height, width)
    whole = Image.fromarray(image).resize((size * width // short, size * height // short), Image.Resampling.BICUBIC)
    left, top = round((whole.width - size) / 2), round((whole.height - size) / 2)
    assert (classifier.crop(image, size) == np.asarray(whole)[top : top + size, left : left + size]).all()


@pytest.mark.parametrize(("length", "to"), [(512, 298), (375, 224), (500, 7), (40, 224), (3, 224), (1, 56), (56, 56)])
def test_weights_add_up_to_a_whole_and_say_what_they_read(length: int, to: int) -> None:
    one = taps(length, to)
    assert one.weights.shape == one.places.shape == (len(one.places), to)
    assert abs(one.weights.sum(0) - (1 << 22)).max() <= len(one.places)
    assert 0 <= one.places.min() <= one.places.max() < length
    for start, stop in ((0, 1), (length // 2, length // 2 + 1), (length - 1, length)):
        reads = ((one.weights != 0) & (one.places >= start) & (one.places < stop)).any(0)
        first, last = one.reached(start, stop)
        assert not reads[:first].any()
        assert not reads[last:].any()
