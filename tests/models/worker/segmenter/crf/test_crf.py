"""The dense CRF and what it sees."""

import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from car.options import CrfBackend
from car.presets import preset
from car.recipe import Arithmetic, Crf, Recipe
from worker.segmenter.crf import dense_crf
from worker.segmenter.crf.arrays import Arrays
from worker.segmenter.crf.dense_crf import LabelGroup, appearance

VOC = preset("voc")
SOON = replace(VOC, crf_iterations=3)


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A white square on black, and a CAM that is a blob about its middle."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[16:32, 20:44] = 240
    ys, xs = np.mgrid[:48, :64]
    cam = np.exp(-((ys - 23.5) ** 2 / 60 + (xs - 31.5) ** 2 / 140)).astype(np.float32)
    return image, cam[None]


def photograph(height: int, width: int, noise: float = 4.0) -> np.ndarray:
    """Colours that change slowly, and noise as cameras have it."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 37 + y / 91), np.cos(y / 53 - x / 60), np.sin((x + y) / 27)]
    image = 128 + 80 * np.stack(waves, -1) + np.random.default_rng(3).normal(0, noise, (height, width, 3))
    photo: np.ndarray = image.clip(0, 255).astype(np.uint8)
    return photo


def blobs(words: int, rows: int, columns: int) -> np.ndarray:
    rng = np.random.default_rng(words)
    y, x = np.mgrid[:rows, :columns]
    middles = rng.uniform((0, 0), (rows, columns), (words, 2))
    return np.stack([np.exp(-((y - r) ** 2 + (x - c) ** 2) / 4) for r, c in middles]).astype(np.float32)


def label(
    image: np.ndarray,
    cams: np.ndarray,
    recipe: Recipe = VOC,
    *,
    bg_factor: float = 1.0,
    by: CrfBackend = CrfBackend.PYDENSECRF,
) -> np.ndarray:
    [labels] = dense_crf.label(image, [LabelGroup(cams, bg_factor)], recipe, by=by)
    return labels[0]


@pytest.mark.parametrize("by", [CrfBackend.PYDENSECRF, CrfBackend.LATTICE])
def test_a_blob_becomes_the_object_it_lies_on(by: CrfBackend) -> None:
    image, cams = scene()
    mask = label(image, cams, by=by) == 1
    truth = image[..., 0] > 0
    assert (mask & truth).sum() / (mask | truth).sum() > 0.97


@pytest.mark.parametrize("by", [CrfBackend.PYDENSECRF, CrfBackend.LATTICE])
def test_a_word_or_all_words_may_have_no_pixel(by: CrfBackend) -> None:
    image, cams = scene()
    assert set(np.unique(label(image, np.concatenate([cams, cams * 0.5]), by=by))) == {0, 1}
    assert not label(image, cams * 0, by=by).any()


def test_a_greater_background_factor_leaves_more_to_the_masks() -> None:
    image, cams = scene()
    plain = replace(VOC, crf=Crf.NONE)
    assert (label(image, cams, plain, bg_factor=3.0) > 0).sum() > (label(image, cams, plain) > 0).sum()


@pytest.mark.parametrize(("height", "width"), [(75, 101), (128, 160)], ids=["odd", "even"])
@pytest.mark.parametrize("words", [*range(1, 9), 20, 60])
def test_the_lattices_label_as_pydensecrf_does(arrays: Arrays, height: int, width: int, words: int) -> None:
    [ours] = dense_crf.label(photograph(height, width), [LabelGroup(blobs(words, 8, 10), 1.5)], VOC, arrays=arrays)
    # Sums in another order: only a tie to six digits may fall otherwise.
    assert (ours[0] == expected(height, width, words)).mean() >= 0.9999


@cache
def expected(height: int, width: int, words: int) -> np.ndarray:
    return label(photograph(height, width), blobs(words, 8, 10), bg_factor=1.5)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: replace(r, crf_bilateral_srgb=13.0, crf_bilateral_sxy=20.0),
        lambda r: replace(r, crf_gaussian_sxy=3.0, crf_iterations=1),
        lambda r: replace(r, crf_gaussian_compat=50.0, crf_bilateral_compat=70.0),
        lambda r: replace(r, crf_bilateral_compat=0.0),
        lambda r: replace(r, crf_image=Arithmetic.PAPER),
    ],
    ids=["colours", "one iteration", "steep", "no appearance", "paper"],
)
def test_they_do_with_other_settings(arrays: Arrays, change: Callable[[Recipe], Recipe]) -> None:
    image, cams, recipe = photograph(60, 84), blobs(4, 8, 10), change(VOC)
    [ours] = dense_crf.label(image, [LabelGroup(cams, 1.0)], recipe, arrays=arrays)
    assert (ours[0] == label(image, cams, recipe)).mean() >= 0.999


def test_words_alone_are_labelled_as_by_a_crf_each(arrays: Arrays) -> None:
    image, cams = photograph(75, 101), blobs(30, 8, 10)
    both = [LabelGroup(cams, 1.0), LabelGroup(cams[:2], 2.0)]
    expected = dense_crf.label(image, both, SOON, alone=True, by=CrfBackend.PYDENSECRF)
    for ours, theirs, one in zip(
        dense_crf.label(image, both, SOON, alone=True, arrays=arrays), expected, both, strict=True
    ):
        assert ours.shape == theirs.shape == (len(one.cams), 75, 101)
        assert ours.dtype == theirs.dtype == np.uint8
        assert (ours == theirs).mean() >= 0.9999
        single = label(image, one.cams[1:2], SOON, bg_factor=one.bg_factor)
        assert (theirs[1] == single).all()


def test_company_and_turns_change_no_bit(arrays: Arrays) -> None:
    image, many = photograph(60, 84), LabelGroup(blobs(40, 8, 10), 1.0)
    few = LabelGroup(many.cams[:3], 1.0)
    for alone in (False, True):
        together = dense_crf.label(image, [many, few], SOON, alone=alone, arrays=arrays)
        for one, labels in zip([few, many], reversed(together), strict=True):
            assert (dense_crf.label(image, [one], SOON, alone=alone, arrays=arrays)[0] == labels).all()


def test_threads_side_by_side_change_no_bit(arrays: Arrays) -> None:
    image, one = photograph(60, 84), LabelGroup(blobs(9, 8, 10), 1.0)
    with ThreadPoolExecutor(4) as threads:
        first, *others = threads.map(lambda _: dense_crf.label(image, [one], SOON, arrays=arrays)[0], range(8))
    assert all((labels == first).all() for labels in others)


def test_deviations_too_fine_for_a_lattice_go_to_pydensecrf(arrays: Arrays) -> None:
    image, cams = photograph(30, 40), blobs(2, 3, 4)
    fine = replace(SOON, crf_bilateral_srgb=0.01)
    [ours] = dense_crf.label(image, [LabelGroup(cams, 1.0)], fine, arrays=arrays)
    assert (ours[0] == label(image, cams, fine)).all()


@pytest.mark.skipif(sys.version_info >= (3, 13) or not shutil.which("g++"), reason="it cannot be compiled here")
def test_the_reference_is_here_where_it_can_be_compiled() -> None:
    assert dense_crf.reference().DenseCRF2D  # or everything that is compared with it would be skipped unseen


def test_without_pydensecrf_it_is_asked_for_in_words(arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf", None)  # as where it could not be compiled
    image, one = photograph(30, 40), LabelGroup(blobs(2, 3, 4), 1.0)
    assert dense_crf.label(image, [one], SOON, arrays=arrays)[0].any()
    assert label(image, one.cams, replace(SOON, crf=Crf.NONE)).any()
    for recipe, by in ((SOON, CrfBackend.PYDENSECRF), (replace(SOON, crf_bilateral_srgb=0.01), CrfBackend.LATTICE)):
        with pytest.raises(dense_crf.ReferenceMissingError, match=r"install car-labeler\[reference\]"):
            dense_crf.label(image, [one], recipe, by=by, arrays=arrays)


def test_no_word_leaves_all_to_the_background() -> None:
    image, none = photograph(30, 40), np.zeros((0, 3, 4), np.float32)
    for by in (CrfBackend.LATTICE, CrfBackend.PYDENSECRF):
        nobody, somebody = dense_crf.label(image, [LabelGroup(none, 1.0), LabelGroup(blobs(1, 3, 4), 1.0)], SOON, by=by)
        assert nobody.shape == (1, 30, 40)
        assert not nobody.any()
        assert somebody.any()
        [sheets] = dense_crf.label(image, [LabelGroup(none, 1.0)], SOON, alone=True, by=by)
        assert sheets.shape == (0, 30, 40)


def test_the_official_picture_is_mean_shifted_bgr_that_wraps() -> None:
    image = np.array([[[0, 0, 0], [255, 200, 104]]], np.uint8)
    # Black: 0 - 104.008 is cut to -104, which is 152 modulo 256.
    assert appearance(image, VOC).tolist() == [[[152, 140, 134], [0, 83, 132]]]
    assert (appearance(image, replace(VOC, crf_image=Arithmetic.PAPER)) == image).all()
