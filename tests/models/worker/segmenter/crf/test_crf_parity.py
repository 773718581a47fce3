"""Our CRF beside pydensecrf on the official code's own CAMs and on those of the demo pictures."""

import json
from collections.abc import Iterator
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
"""Of pixels. Sums are taken in another order, which can turn a tie; in every case so far it turned none."""


@pytest.mark.skipif(not CASES, reason=f"no golden cases in {GOLDEN}; CAR_GOLDEN_DIR names another folder")
@pytest.mark.parametrize("name", CASES or ["none"])
def test_the_labels_of_the_golden_pictures_agree(arrays: Arrays, name: str) -> None:
    case = json.loads((GOLDEN / name / "case.json").read_text())
    with np.load(GOLDEN / name / "arrays.npz") as stored:
        cams = [stored[f"step{number}_cams"].astype(np.float32) for number in range(len(case["steps"]))]
    picture = np.asarray(Image.open(GOLDEN / name / "image.png").convert("RGB"))
    recipe = preset(case["preset"])
    for steps in cams:
        [ours] = dense_crf.label(picture, [LabelGroup(steps, 1.0)], recipe, arrays=arrays)
        [reference] = dense_crf.label(picture, [LabelGroup(steps, 1.0)], recipe, by=CrfBackend.PYDENSECRF)
        assert (ours == reference).mean() >= AGREEMENT


@pytest.fixture(scope="module")
def car() -> Segmenter:
    pair = load_pair(WEIGHTS / "proposal", WEIGHTS / "classifier", device=torch.device("cpu"))
    return Segmenter(pair.proposal, pair.classifier)


def recurred(car: Segmenter, recipe: Recipe, words: list[str]) -> Iterator[PendingSegmentation]:
    pictures = [open_image(path).pixels for path in list(find_images([WEIGHTS.parent / "images"]))[:2]]
    pictures[0] = pictures[0][:-3, :-6]  # an odd number of pixels
    yield from car.recur(pictures, Vocabulary.of(words, mode=recipe.mode), recipe)


@pytest.mark.parametrize("kind", RECIPES)
def test_the_masks_of_the_demo_pictures_agree(car: Segmenter, arrays: Arrays, kind: str) -> None:
    for unfinished in recurred(car, *RECIPES[kind]):
        sharpened = unfinished.with_crf(arrays)
        reference = replace(unfinished, crf_by=CrfBackend.PYDENSECRF).with_crf()
        for ours, theirs in zip(sharpened.passes, reference.passes, strict=True):
            assert ours.crf_labels is not None
            assert theirs.crf_labels is not None
            assert ours.crf_labels.shape == theirs.crf_labels.shape
            assert (
                (ours.crf_labels == theirs.crf_labels).mean() >= AGREEMENT if ours.labels else not ours.crf_labels.any()
            )
        one, other = sharpened.finish(), reference.finish()
        assert [mask.label for mask in one.masks] == [mask.label for mask in other.masks]
        assert one.work == other.work
        for mine, its in zip(one.masks, other.masks, strict=True):
            assert (decode_coco(mine.rle) == decode_coco(its.rle)).mean() >= AGREEMENT


def test_a_picture_sharpened_where_the_models_are_is_the_same_once_finished(car: Segmenter) -> None:
    unfinished = next(recurred(car, *RECIPES["semantic"]))
    ticks = iter(range(10))
    sharpened = unfinished.with_crf(clock=lambda: float(next(ticks)))
    assert sharpened.timings == {"crf_ms": 1000.0}
    assert sharpened.with_crf() is sharpened
    assert replace(sharpened, timings={}).finish() == unfinished.finish()
    assert sharpened.finish(lambda: float(next(ticks))).timings == {"crf_ms": 2000.0}


def test_who_computes_the_crf_goes_with_the_picture(car: Segmenter) -> None:
    asked = replace(car, crf_by=CrfBackend.PYDENSECRF)
    assert {one.crf_by for one in recurred(asked, *RECIPES["semantic"])} == {CrfBackend.PYDENSECRF}
