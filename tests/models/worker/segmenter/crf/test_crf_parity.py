"""Our CRF compared with pydensecrf on the official code's own CAMs and on those of the demo images."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from car.options import CrfBackend
from car.presets import preset
from car.recipe import Mode, Recipe, VisualPrompt
from car.rle import decode_coco
from car.vocabulary import Vocabulary, parse_labels_file
from demo.clip_models import WEIGHTS
from tests.support.paths import GOLDEN
from worker.images import find_images, open_image
from worker.models.weights import load_pair
from worker.segmenter.crf import dense_crf
from worker.segmenter.crf.arrays import Arrays
from worker.segmenter.crf.dense_crf import LabelGroup
from worker.segmenter.postprocess import PendingSegmentation
from worker.segmenter.segmenter import Segmenter

CASES = sorted(path.parent.name for path in GOLDEN.glob("*/case.json"))
WORDS = [label.name for label in parse_labels_file((WEIGHTS.parent / "labels.txt").read_text())]
DEMO = preset("demo")
RECIPES = {
    "semantic": (DEMO, WORDS),
    "things and stuff": (replace(DEMO, stuff=tuple(WORDS[5:12]), stuff_visual_prompts=(VisualPrompt.GRAY,)), WORDS),
    "refer": (replace(DEMO, mode=Mode.REFER, theta=0.0), WORDS[:4]),
}
AGREEMENT = 0.999
"""Share of pixels. Sums are computed in another order, which may break a tie differently."""


@pytest.mark.skipif(not CASES, reason=f"no golden cases in {GOLDEN}; CAR_GOLDEN_DIR names another folder")
@pytest.mark.parametrize("name", CASES or ["none"])
def test_the_labels_of_the_golden_images_agree(arrays: Arrays, name: str) -> None:
    case = json.loads((GOLDEN / name / "case.json").read_text())
    with np.load(GOLDEN / name / "arrays.npz") as stored:
        cams = [stored[f"step{number}_cams"].astype(np.float32) for number in range(len(case["steps"]))]
    image = np.asarray(Image.open(GOLDEN / name / "image.png").convert("RGB"))
    recipe = preset(case["preset"])
    for step_cams in cams:
        [labels] = dense_crf.label(image, [LabelGroup(step_cams, 1.0)], recipe, arrays=arrays)
        [reference] = dense_crf.label(image, [LabelGroup(step_cams, 1.0)], recipe, backend=CrfBackend.PYDENSECRF)
        assert (labels == reference).mean() >= AGREEMENT


@pytest.fixture(scope="module")
def car() -> Segmenter:
    pair = load_pair(WEIGHTS / "proposal", WEIGHTS / "classifier", device=torch.device("cpu"))
    return Segmenter(pair.proposal, pair.classifier)


def recur(car: Segmenter, recipe: Recipe, words: list[str]) -> list[PendingSegmentation]:
    images = [open_image(path).pixels for path in list(find_images([WEIGHTS.parent / "images"]))[:2]]
    images[0] = images[0][:-3, :-6]  # an odd number of pixels
    return car.recur(images, Vocabulary.from_words(words, mode=recipe.mode), recipe)


@pytest.mark.parametrize("kind", RECIPES)
def test_the_masks_of_the_demo_images_agree(car: Segmenter, arrays: Arrays, kind: str) -> None:
    for pending in recur(car, *RECIPES[kind]):
        lattice = pending.with_crf(arrays)
        reference = replace(pending, crf_backend=CrfBackend.PYDENSECRF).with_crf()
        for actual, expected in zip(lattice.passes, reference.passes, strict=True):
            labels, expected_labels = actual.crf_labels, expected.crf_labels
            assert labels is not None
            assert expected_labels is not None
            assert labels.shape == expected_labels.shape
            assert (labels == expected_labels).mean() >= AGREEMENT if actual.labels else not labels.any()
        result, expected_result = lattice.finish(), reference.finish()
        assert [mask.label for mask in result.masks] == [mask.label for mask in expected_result.masks]
        assert result.work == expected_result.work
        for mask, expected_mask in zip(result.masks, expected_result.masks, strict=True):
            assert (decode_coco(mask.rle) == decode_coco(expected_mask.rle)).mean() >= AGREEMENT


def test_running_the_crf_before_finish_changes_no_result(car: Segmenter) -> None:
    pending = recur(car, *RECIPES["semantic"])[0]
    ticks = iter(range(10))
    with_crf = pending.with_crf(clock=lambda: float(next(ticks)))
    assert with_crf.timings == {"crf_ms": 1000.0}
    assert with_crf.with_crf() is with_crf
    assert replace(with_crf, timings={}).finish() == pending.finish()
    assert with_crf.finish(lambda: float(next(ticks))).timings == {"crf_ms": 2000.0}


def test_the_crf_backend_is_passed_on_to_postprocessing(car: Segmenter) -> None:
    reference = replace(car, crf_backend=CrfBackend.PYDENSECRF)
    assert {pending.crf_backend for pending in recur(reference, *RECIPES["semantic"])} == {CrfBackend.PYDENSECRF}
