"""Parity with the official code's outputs for small random models; their README has the tolerances."""

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from car.options import Precision
from car.presets import preset
from car.recipe import Recipe, VisualPrompt
from car.rle import decode_coco
from car.segmentation import Segmentation
from car.vocabulary import Vocabulary
from tests.support.paths import GOLDEN
from worker.models.weights import load_pair
from worker.segmenter.recurrence import StepTrace
from worker.segmenter.resizing import enlarge
from worker.segmenter.segmenter import Segmenter

CASES = sorted(path.parent.name for path in GOLDEN.glob("*/case.json"))

pytestmark = pytest.mark.skipif(not CASES, reason=f"no golden cases in {GOLDEN}; CAR_GOLDEN_DIR names another folder")


SCORES = {Precision.AUTO: 1e-3, Precision.BFLOAT16: 5e-3}
"""Tolerance of scores: that of the README of the cases, and that of a rounded g."""


@dataclass(frozen=True)
class Golden:
    precision: Precision
    case: dict[str, Any]
    arrays: dict[str, np.ndarray]
    image: np.ndarray
    result: Segmentation
    traces: list[StepTrace]


def recipe_of(case: dict[str, Any]) -> Recipe:
    return replace(
        preset(case["preset"]),
        eta=case["eta"],
        theta=case["theta"],
        lambda_=case["lambda_"],
        visual_prompts=tuple(VisualPrompt(name) for name in case["visual_prompts"]),
    )


RUNS = [(case, precision) for case in CASES for precision in SCORES]


@pytest.fixture(scope="module", params=RUNS or ["none"], ids="-".join)
def golden(request: pytest.FixtureRequest) -> Golden:
    name, precision = request.param
    folder = GOLDEN / name
    case = json.loads((folder / "case.json").read_text())
    with np.load(folder / "arrays.npz") as stored:
        arrays = dict(stored)
    image = np.asarray(Image.open(folder / "image.png").convert("RGB"))
    models = GOLDEN / "models" / case["models"]
    pair = load_pair(models / "proposal", models / "classifier", device=torch.device("cpu"), precision=precision)
    traces: list[StepTrace] = []
    [result] = Segmenter(pair.proposal, pair.classifier).segment(
        [image], Vocabulary.from_words(case["queries"]), recipe_of(case), observe=lambda _, trace: traces.append(trace)
    )
    return Golden(precision, case, arrays, image, result, traces)


def test_every_step_has_and_keeps_the_same_queries(golden: Golden) -> None:
    queries = [[query.text for query in step.queries] for step in golden.result.steps]
    kept = [[i for i, query in enumerate(step.queries) if query.kept] for step in golden.result.steps]
    assert queries == [step["queries"] for step in golden.case["steps"]]
    assert kept == [step["kept"] for step in golden.case["steps"]]


def test_scores_agree_within_the_tolerance(golden: Golden) -> None:
    tolerance = SCORES[golden.precision]
    for step, expected in zip(golden.result.steps, golden.case["steps"], strict=True):
        np.testing.assert_allclose([query.score for query in step.queries], expected["scores"], atol=tolerance, rtol=0)


def test_cams_agree_within_five_thousandths_everywhere(golden: Golden) -> None:
    height, width = golden.image.shape[:2]
    for number, trace in enumerate(golden.traces):
        cams = np.stack([enlarge(cam, height, width) for cam in trace.cams])
        np.testing.assert_allclose(cams, golden.arrays[f"step{number}_cams"].astype(np.float32), atol=5e-3, rtol=0)


def test_every_final_mask_overlaps_the_official_one_to_99_percent(golden: Golden) -> None:
    masks = {mask.label: decode_coco(mask.rle) for mask in golden.result.masks}
    for label, expected in zip(golden.case["queries"], golden.arrays["final_masks"], strict=True):
        mask = masks.get(label, np.zeros_like(expected))
        union = (mask | expected).sum()
        assert union == 0 or (mask & expected).sum() / union >= 0.99, label


def test_final_scores_are_those_of_the_last_step(golden: Golden) -> None:
    scores = {mask.label: mask.score for mask in golden.result.masks}
    expected = {
        label: score
        for label, score, area in zip(
            golden.case["queries"], golden.case["final_scores"], golden.case["final_areas"], strict=True
        )
        if area
    }
    assert scores == pytest.approx(expected, abs=SCORES[golden.precision])
