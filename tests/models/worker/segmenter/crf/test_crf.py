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
QUICK = replace(VOC, crf_iterations=3)


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A white rectangle on black, and a CAM that is a blob around its centre."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[16:32, 20:44] = 240
    ys, xs = np.mgrid[:48, :64]
    cam = np.exp(-((ys - 23.5) ** 2 / 60 + (xs - 31.5) ** 2 / 140)).astype(np.float32)
    return image, cam[None]


def photograph(height: int, width: int, noise: float = 4.0) -> np.ndarray:
    """Slowly changing colours with camera noise."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 37 + y / 91), np.cos(y / 53 - x / 60), np.sin((x + y) / 27)]
    image = 128 + 80 * np.stack(waves, -1) + np.random.default_rng(3).normal(0, noise, (height, width, 3))
    photo: np.ndarray = image.clip(0, 255).astype(np.uint8)
    return photo


def blobs(count: int, rows: int, columns: int) -> np.ndarray:
    rng = np.random.default_rng(count)
    y, x = np.mgrid[:rows, :columns]
    centres = rng.uniform((0, 0), (rows, columns), (count, 2))
    return np.stack([np.exp(-((y - r) ** 2 + (x - c) ** 2) / 4) for r, c in centres]).astype(np.float32)


def label(
    image: np.ndarray,
    cams: np.ndarray,
    recipe: Recipe = VOC,
    *,
    bg_factor: float = 1.0,
    backend: CrfBackend = CrfBackend.PYDENSECRF,
) -> np.ndarray:
    [labels] = dense_crf.label(image, [LabelGroup(cams, bg_factor)], recipe, backend=backend)
    return labels[0]


@pytest.mark.parametrize("backend", [CrfBackend.PYDENSECRF, CrfBackend.LATTICE])
def test_a_blob_becomes_the_object_under_it(backend: CrfBackend) -> None:
    image, cams = scene()
    mask = label(image, cams, backend=backend) == 1
    truth = image[..., 0] > 0
    assert (mask & truth).sum() / (mask | truth).sum() > 0.97


@pytest.mark.parametrize("backend", [CrfBackend.PYDENSECRF, CrfBackend.LATTICE])
def test_a_label_or_all_labels_may_have_no_pixels(backend: CrfBackend) -> None:
    image, cams = scene()
    assert set(np.unique(label(image, np.concatenate([cams, cams * 0.5]), backend=backend))) == {0, 1}
    assert not label(image, cams * 0, backend=backend).any()


def test_a_greater_background_factor_enlarges_the_masks() -> None:
    image, cams = scene()
    plain = replace(VOC, crf=Crf.NONE)
    assert (label(image, cams, plain, bg_factor=3.0) > 0).sum() > (label(image, cams, plain) > 0).sum()


@pytest.mark.parametrize(("height", "width"), [(75, 101), (128, 160)], ids=["odd", "even"])
@pytest.mark.parametrize("count", [*range(1, 9), 20, 60])
def test_the_lattices_label_as_pydensecrf_does(arrays: Arrays, height: int, width: int, count: int) -> None:
    [labels] = dense_crf.label(photograph(height, width), [LabelGroup(blobs(count, 8, 10), 1.5)], VOC, arrays=arrays)
    # Sums are computed in another order, so only ties to six digits may differ.
    assert (labels[0] == expected(height, width, count)).mean() >= 0.9999


@cache
def expected(height: int, width: int, count: int) -> np.ndarray:
    return label(photograph(height, width), blobs(count, 8, 10), bg_factor=1.5)


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
def test_the_lattices_label_as_pydensecrf_does_with_other_settings(
    arrays: Arrays, change: Callable[[Recipe], Recipe]
) -> None:
    image, cams, recipe = photograph(60, 84), blobs(4, 8, 10), change(VOC)
    [labels] = dense_crf.label(image, [LabelGroup(cams, 1.0)], recipe, arrays=arrays)
    assert (labels[0] == label(image, cams, recipe)).mean() >= 0.999


def test_independent_labels_get_a_crf_each(arrays: Arrays) -> None:
    image, cams = photograph(75, 101), blobs(30, 8, 10)
    groups = [LabelGroup(cams, 1.0), LabelGroup(cams[:2], 2.0)]
    actual = dense_crf.label(image, groups, QUICK, independent=True, arrays=arrays)
    references = dense_crf.label(image, groups, QUICK, independent=True, backend=CrfBackend.PYDENSECRF)
    for labels, reference, group in zip(actual, references, groups, strict=True):
        assert labels.shape == reference.shape == (len(group.cams), 75, 101)
        assert labels.dtype == reference.dtype == np.uint8
        assert (labels == reference).mean() >= 0.9999
        single = label(image, group.cams[1:2], QUICK, bg_factor=group.bg_factor)
        assert (reference[1] == single).all()


def test_other_groups_of_the_image_change_no_bit(arrays: Arrays) -> None:
    image, large = photograph(60, 84), LabelGroup(blobs(40, 8, 10), 1.0)
    groups = [large, LabelGroup(large.cams[:3], 1.0)]
    for independent in (False, True):
        together = dense_crf.label(image, groups, QUICK, independent=independent, arrays=arrays)
        for group, labels in zip(reversed(groups), reversed(together), strict=True):
            assert (dense_crf.label(image, [group], QUICK, independent=independent, arrays=arrays)[0] == labels).all()


def test_concurrent_threads_change_no_bit(arrays: Arrays) -> None:
    image, group = photograph(60, 84), LabelGroup(blobs(9, 8, 10), 1.0)
    with ThreadPoolExecutor(4) as threads:
        first, *others = threads.map(lambda _: dense_crf.label(image, [group], QUICK, arrays=arrays)[0], range(8))
    assert all((labels == first).all() for labels in others)


def test_deviations_too_small_for_a_lattice_fall_back_to_pydensecrf(arrays: Arrays) -> None:
    image, cams = photograph(30, 40), blobs(2, 3, 4)
    fine = replace(QUICK, crf_bilateral_srgb=0.01)
    [labels] = dense_crf.label(image, [LabelGroup(cams, 1.0)], fine, arrays=arrays)
    assert (labels[0] == label(image, cams, fine)).all()


@pytest.mark.skipif(sys.version_info >= (3, 13) or not shutil.which("g++"), reason="needs g++ and Python below 3.13")
def test_pydensecrf_is_installed_where_it_can_be_compiled() -> None:
    assert dense_crf.import_pydensecrf().DenseCRF2D  # else all comparisons with it would be skipped unnoticed


def test_without_pydensecrf_the_error_says_how_to_install_it(arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf", None)  # as if it were not installed
    image, group = photograph(30, 40), LabelGroup(blobs(2, 3, 4), 1.0)
    assert dense_crf.label(image, [group], QUICK, arrays=arrays)[0].any()
    assert label(image, group.cams, replace(QUICK, crf=Crf.NONE)).any()
    for recipe, backend in (
        (QUICK, CrfBackend.PYDENSECRF),
        (replace(QUICK, crf_bilateral_srgb=0.01), CrfBackend.LATTICE),
    ):
        with pytest.raises(dense_crf.ReferenceMissingError, match=r"install car-labeler\[reference\]"):
            dense_crf.label(image, [group], recipe, backend=backend, arrays=arrays)


def test_without_labels_all_is_background() -> None:
    image, empty = photograph(30, 40), LabelGroup(np.zeros((0, 3, 4), np.float32), 1.0)
    for backend in (CrfBackend.LATTICE, CrfBackend.PYDENSECRF):
        background, labels = dense_crf.label(image, [empty, LabelGroup(blobs(1, 3, 4), 1.0)], QUICK, backend=backend)
        assert background.shape == (1, 30, 40)
        assert not background.any()
        assert labels.any()
        [layers] = dense_crf.label(image, [empty], QUICK, independent=True, backend=backend)
        assert layers.shape == (0, 30, 40)


def test_the_official_crf_sees_mean_shifted_bgr_that_wraps() -> None:
    image = np.array([[[0, 0, 0], [255, 200, 104]]], np.uint8)
    # Black: 0 - 104.008 is cut to -104, which is 152 modulo 256.
    assert appearance(image, VOC).tolist() == [[[152, 140, 134], [0, 83, 132]]]
    assert (appearance(image, replace(VOC, crf_image=Arithmetic.PAPER)) == image).all()
