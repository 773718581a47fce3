"""Prompted crops, on the host and on a device: the pixels of a plain reference drawing, bit for bit."""

import itertools
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import binary_fill_holes

from car.presets import apply_settings, preset
from car.recipe import Recipe, VisualPrompt
from worker.segmenter import classifier
from worker.segmenter.classifier import Crops
from worker.segmenter.prompts.prompted_crops import DevicePrompts, Prompter, host_crops
from worker.segmenter.prompts.visual_prompts import (
    OUTLINES,
    RED,
    PromptSource,
    apply_prompts,
    draw_outlines,
    prepare,
)
from worker.segmenter.resampling import filter_taps
from worker.segmenter.resizing import enlarge, shrink

VOC = preset("voc")
PAPER_GRAY = apply_settings(VOC, {"gray_weights": "paper"})
COMBINATIONS = [prompts for count in range(1, 7) for prompts in itertools.combinations(VisualPrompt, count)]
CPU = torch.device("cpu")

MakePrompter = Callable[[PromptSource, int], Prompter]
MAKERS = [
    pytest.param(lambda source, size: partial(host_crops, source, size), id="host"),
    pytest.param(lambda source, size: DevicePrompts(source, size, CPU).crops, id="device"),
    # Three masks at a time.
    pytest.param(
        lambda source, size: DevicePrompts(source, size, CPU, max_pixels=3 * source.image[..., 0].size).crops,
        id="device-batches",
    ),
]


def make_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise of all bytes, half of it black or white: it overflows the bicubic on both sides."""
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image[:, : width // 2] = random.integers(0, 2, (height, width // 2, 3)) * 255
    return image


def blob(height: int, width: int, seed: int, eta: float = 0.5) -> np.ndarray:
    return enlarge(np.random.default_rng(seed).random((5, 6), dtype=np.float32), height, width) > eta


def make_masks(height: int, width: int) -> list[np.ndarray]:
    """Empty, full, a pixel, the four borders, a frame with an island in its hole, noise, blobs."""

    def empty() -> np.ndarray:
        return np.zeros((height, width), bool)

    masks = [empty(), ~empty(), *(empty() for _ in range(6))]
    masks[2][height // 3, width // 4] = True
    masks[3][0], masks[4][-1], masks[5][:, 0], masks[6][:, -1] = True, True, True, True
    frame = masks[7]
    frame[height // 8 : -(height // 8) - 1, width // 8 : -(width // 8) - 1] = True
    frame[height // 4 : -(height // 4) - 1, width // 4 : -(width // 4) - 1] = False
    frame[height // 2, width // 2] = True
    random = np.random.default_rng(5)
    return [*masks, random.random((height, width)) > 0.5, random.random((height, width)) > 0.98] + [
        blob(height, width, seed, eta) for seed, eta in enumerate((0.3, 0.5, 0.7, 0.85))
    ]


def draw(source: PromptSource, mask: np.ndarray) -> np.ndarray:
    """The prompts as the official code defines them, without any shortcut."""
    pixels = np.where(mask[..., None], source.image, source.outside)
    if not mask.any():
        return pixels
    ys, xs = np.nonzero(mask)
    x, y = int(xs.mean()), int(ys.mean())
    half_w, half_h = int(xs.max() - xs.min() + 1) // 2, int(ys.max() - ys.min() + 1) // 2
    if VisualPrompt.CIRCLE in source.prompts:
        cv2.ellipse(pixels, (x, y), (half_w, half_h), 0, 0, 360, RED, 1)
    if VisualPrompt.RECTANGLE in source.prompts:
        cv2.rectangle(pixels, (x - half_w, y - half_h), (x + half_w, y + half_h), RED, 1)
    if VisualPrompt.CONTOUR in source.prompts:
        filled = binary_fill_holes(mask).astype(np.uint8)
        contours, _ = cv2.findContours(filled, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(pixels, contours, -1, RED, 1)
    return pixels


def differing(crops: Crops, source: PromptSource, masks: list[np.ndarray | None], size: int) -> list[int]:
    """Numbers of the masks whose crops are not the reference's."""
    assert crops.shape == (len(masks), size, size, 3)
    drawn = [source.image if mask is None else draw(source, mask) for mask in masks]
    pairs = zip(crops.numpy(), drawn, strict=True)
    return [k for k, (crop, image) in enumerate(pairs) if (crop != classifier.crop(image, size)).any()]


def check(
    make: MakePrompter, image: np.ndarray, prompts: tuple[VisualPrompt, ...], size: int, recipe: Recipe = VOC
) -> None:
    source = prepare(image, prompts, recipe)
    masks = [*make_masks(*image.shape[:2]), None]
    crops = make(source, size)([None if mask is None else np.packbits(mask) for mask in masks])
    assert differing(crops, source, masks, size) == []


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("prompts", COMBINATIONS, ids="+".join)
def test_every_combination_of_prompts_is_the_reference_drawing(
    make: MakePrompter, prompts: tuple[VisualPrompt, ...]
) -> None:
    check(make, make_image(61, 83), prompts, 28)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("prompts", [("gray",), ("blur", "gray"), ("gray", "circle", "contour")], ids="+".join)
def test_gray_by_the_papers_weights_is_the_reference_drawing(make: MakePrompter, prompts: tuple[str, ...]) -> None:
    image, chosen = make_image(61, 83), tuple(VisualPrompt(prompt) for prompt in prompts)
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
def test_every_size_is_the_reference_drawing(make: MakePrompter, height: int, width: int, size: int) -> None:
    prompts = (VisualPrompt.BLUR, VisualPrompt.GRAY, VisualPrompt.CIRCLE, VisualPrompt.RECTANGLE, VisualPrompt.CONTOUR)
    check(make, make_image(height, width), prompts, size)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("max_side", [64, 101])
def test_an_image_shrunk_to_max_side_is_the_reference_drawing(make: MakePrompter, max_side: int) -> None:
    check(make, shrink(make_image(140, 211), max_side), VOC.visual_prompts, 56)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("prompts", [("contour",), ("blur", "circle")], ids="+".join)
def test_read_only_and_non_contiguous_images_are_drawn_too(make: MakePrompter, prompts: tuple[str, ...]) -> None:
    image = make_image(83, 61).transpose(1, 0, 2)[::-1]
    image.flags.writeable = False
    check(make, image, tuple(VisualPrompt(prompt) for prompt in prompts), 28)


@pytest.mark.parametrize("make", MAKERS)
def test_no_mask_makes_no_crop(make: MakePrompter) -> None:
    crops = make(prepare(make_image(30, 40), VOC.visual_prompts, VOC), 28)([])
    assert crops.shape == (0, 28, 28, 3)
    assert crops.dtype == torch.uint8


def test_outlines_on_a_canvas_of_bits_are_those_on_an_image() -> None:
    image = np.zeros((61, 83, 3), np.uint8)
    for prompts in COMBINATIONS:
        outline_prompts = tuple(prompt for prompt in prompts if prompt in OUTLINES)
        for mask in make_masks(61, 83):
            canvas = np.zeros((61, 83), np.uint8)
            draw_outlines(canvas, mask.astype(np.uint8), prompts, 1)
            pixels = apply_prompts(PromptSource(image, image, outline_prompts), mask)
            assert ((pixels == RED).all(-1) == canvas.astype(bool)).all()


@pytest.mark.parametrize(("height", "width"), [(384, 512), (375, 500), (500, 333), (61, 83), (90, 45)])
def test_a_crop_is_one_resize_of_pillow_and_the_centre_square(height: int, width: int) -> None:
    image, size = make_image(height, width), 56
    short = min(height, width)
    resized = Image.fromarray(image).resize((size * width // short, size * height // short), Image.Resampling.BICUBIC)
    left, top = round((resized.width - size) / 2), round((resized.height - size) / 2)
    assert (classifier.crop(image, size) == np.asarray(resized)[top : top + size, left : left + size]).all()


@pytest.mark.parametrize(
    ("length", "resized"), [(512, 298), (375, 224), (500, 7), (40, 224), (3, 224), (1, 56), (56, 56)]
)
def test_filter_weights_sum_to_one_and_read_inside_the_input(length: int, resized: int) -> None:
    taps = filter_taps(length, resized, 0, resized)
    assert taps.weights.shape == taps.positions.shape == (len(taps.positions), resized)
    assert abs(taps.weights.sum(0) - (1 << 22)).max() <= len(taps.positions)
    start, stop = taps.input_range
    assert 0 <= start < stop <= length
