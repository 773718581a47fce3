"""The dense CRF and what it sees."""

from dataclasses import replace

import numpy as np

from car.presets import preset
from car.recipe import Arithmetic, Crf
from worker.segmenter.crf import appearance, sharpen

VOC = preset("voc")


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A white square on black, and a CAM that is a blob about its middle."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[16:32, 20:44] = 240
    ys, xs = np.mgrid[:48, :64]
    cam = np.exp(-((ys - 23.5) ** 2 / 60 + (xs - 31.5) ** 2 / 140)).astype(np.float32)
    return image, cam[None]


def test_a_blob_becomes_the_object_it_lies_on() -> None:
    image, cams = scene()
    [mask] = sharpen(image, cams, VOC, bg_factor=1.0)
    truth = image[..., 0] > 0
    assert (mask & truth).sum() / (mask | truth).sum() > 0.97


def test_masks_are_disjoint_and_may_be_empty() -> None:
    image, cams = scene()
    two = sharpen(image, np.concatenate([cams, cams * 0.5]), VOC, bg_factor=1.0)
    assert two.shape == (2, 48, 64)
    assert not (two[0] & two[1]).any()
    assert not sharpen(image, cams * 0, VOC, bg_factor=1.0).any()


def test_a_greater_background_factor_leaves_more_to_the_masks() -> None:
    image, cams = scene()
    plain = replace(VOC, crf=Crf.NONE)
    assert sharpen(image, cams, plain, bg_factor=3.0).sum() > sharpen(image, cams, plain, bg_factor=1.0).sum()


def test_the_official_picture_is_mean_shifted_bgr_that_wraps() -> None:
    image = np.array([[[0, 0, 0], [255, 200, 104]]], np.uint8)
    # Black: 0 - 104.008 is cut to -104, which is 152 modulo 256.
    assert appearance(image, VOC).tolist() == [[[152, 140, 134], [0, 83, 132]]]
    assert (appearance(image, replace(VOC, crf_image=Arithmetic.PAPER)) == image).all()
