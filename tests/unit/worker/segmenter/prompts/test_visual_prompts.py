"""Visual prompts: what the classifier is shown, to the pixel."""

import cv2
import numpy as np
import pytest

from car.presets import apply_settings, preset
from car.recipe import Arithmetic, VisualPrompt
from worker.segmenter.prompts.visual_prompts import apply_prompts, prepare

VOC = preset("voc")
RED = (255, 0, 0)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 255, (40, 60, 3), dtype=np.uint8)


@pytest.fixture
def mask() -> np.ndarray:
    mask = np.zeros((40, 60), bool)
    mask[10:21, 20:41] = True
    return mask


def apply(image: np.ndarray, mask: np.ndarray, *prompts: VisualPrompt) -> np.ndarray:
    return apply_prompts(prepare(image, prompts, VOC), mask)


@pytest.mark.parametrize("prompt", [VisualPrompt.BLUR, VisualPrompt.GRAY, VisualPrompt.BLACK])
def test_the_inside_of_the_mask_stays_as_it_is(image: np.ndarray, mask: np.ndarray, prompt: VisualPrompt) -> None:
    prompted = apply(image, mask, prompt)
    assert (prompted[mask] == image[mask]).all()
    assert not (prompted[~mask] == image[~mask]).all()


def test_blur_is_fifteen_wide_with_opencvs_own_sigma(image: np.ndarray, mask: np.ndarray) -> None:
    expected = cv2.GaussianBlur(image, (15, 15), 2.6)
    assert (apply(image, mask, VisualPrompt.BLUR)[~mask] == expected[~mask]).all()


def test_gray_weighs_red_as_blue_like_the_official_code(mask: np.ndarray) -> None:
    red = np.zeros((40, 60, 3), np.uint8)
    red[..., 0] = 255
    assert (apply(red, mask, VisualPrompt.GRAY)[~mask] == 29).all()  # 0.114 * 255
    paper = apply_prompts(prepare(red, (VisualPrompt.GRAY,), apply_settings(VOC, {"gray_weights": "paper"})), mask)
    assert (paper[~mask] == 76).all()  # 0.299 * 255


def test_gray_is_taken_of_the_blurred_outside(image: np.ndarray, mask: np.ndarray) -> None:
    prompted = apply(image, mask, VisualPrompt.GRAY, VisualPrompt.BLUR)
    # The blur replaces the outside first; gray then reads what is there.
    composed = np.where(mask[..., None], image, cv2.GaussianBlur(image, (15, 15), 0))
    gray = cv2.cvtColor(composed, cv2.COLOR_BGR2GRAY)[..., None]
    assert (prompted == np.where(mask[..., None], image, gray)).all()


def test_the_circle_is_centred_on_the_centroid_with_half_axes_of_the_box(image: np.ndarray, mask: np.ndarray) -> None:
    expected = image.copy()
    cv2.ellipse(expected, (30, 15), (10, 5), 0, 0, 360, RED, 1)
    assert (apply(image, mask, VisualPrompt.CIRCLE) == expected).all()


def test_the_rectangle_and_the_contour_are_red_lines(image: np.ndarray, mask: np.ndarray) -> None:
    rectangle = apply(image, mask, VisualPrompt.RECTANGLE)
    assert (rectangle[10, 20:41] == RED).all()
    assert (rectangle[10:21, 40] == RED).all()
    contour = apply(image, mask, VisualPrompt.CONTOUR)
    assert ((contour == RED).all(-1).sum()) == 2 * (21 + 11) - 4


def test_a_hole_has_no_contour(image: np.ndarray, mask: np.ndarray) -> None:
    holed = mask.copy()
    holed[14:17, 28:33] = False
    lines = (apply(image, holed, VisualPrompt.CONTOUR) != image).any(-1)
    assert not lines[13:18, 27:34].any()


@pytest.mark.parametrize("prompt", [VisualPrompt.CIRCLE, VisualPrompt.RECTANGLE, VisualPrompt.CONTOUR])
def test_an_empty_mask_has_no_lines(image: np.ndarray, prompt: VisualPrompt) -> None:
    assert (apply(image, np.zeros((40, 60), bool), prompt) == image).all()


def test_the_image_itself_is_not_modified(image: np.ndarray, mask: np.ndarray) -> None:
    before = image.copy()
    apply(image, mask, *VisualPrompt)
    assert (image == before).all()
    assert VOC.gray_weights is Arithmetic.OFFICIAL
