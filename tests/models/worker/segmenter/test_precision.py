"""Half precision keeps what was promised in float32: the same words but for near ties, masks that overlap to 98 %."""

import pytest
import torch

from car.options import Precision
from car.presets import preset
from car.vocabulary import Vocabulary
from demo.scenes import WORDS, held_out_scenes
from evaluation.parity import Parity, compare
from tests.support.paths import ROOT
from worker.models.weights import load_pair
from worker.segmenter.segmenter import Segmenter

WEIGHTS = ROOT / "demo" / "weights"
CPU = torch.device("cpu")
NEAR = 0.05
"""Rounding moves a score by 0.025 at most on the scenes that were looked at; one so near theta may change sides."""


def segmenter(device, precision):
    pair = load_pair(WEIGHTS / "proposal", WEIGHTS / "classifier", device=device, precision=precision)
    return Segmenter(pair.proposal, pair.classifier)


def parity(device, precision, scenes) -> Parity:
    images = [scene.image for scene in held_out_scenes(scenes, seed=3)]
    exact, quick = segmenter(device, Precision.FLOAT32), segmenter(device, precision)
    return compare(exact, quick, images, Vocabulary.of(WORDS), preset("demo"))


@pytest.mark.parametrize("precision", [Precision.BFLOAT16, Precision.FLOAT16])
def test_a_cpu_in_half_precision_finds_the_same_words_and_the_very_same_masks(precision):
    found = parity(CPU, precision, 4)
    assert found.same_words == found.pictures
    assert found.least_iou == 1.0, "f stays in float32, so the same words have the same masks"
    assert 0 < found.largest_score_difference < NEAR


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", [Precision.FLOAT16, Precision.BFLOAT16])
def test_masks_of_a_gpu_in_half_precision_overlap_those_of_float32_to_98_percent(precision):
    found = parity(torch.device("cuda"), precision, 40)
    assert all(tie.distance < NEAR for tie in found.near_ties)
    assert found.mean_iou >= 0.98


def test_by_itself_a_cpu_computes_in_float32():
    auto = segmenter(CPU, Precision.AUTO)
    for encoder in (auto.proposal, auto.classifier):
        assert {tensor.dtype for tensor in encoder._model.parameters()} == {torch.float32}


def test_on_a_cpu_the_matrices_of_g_alone_are_rounded():
    low = segmenter(CPU, Precision.BFLOAT16)
    rounded = {name for name, tensor in low.classifier._model.named_parameters() if tensor.dtype is torch.bfloat16}
    assert rounded
    assert all(name.startswith("vision_model.encoder.layers.") and "norm" not in name for name in rounded)
    assert {tensor.dtype for tensor in low.proposal._model.parameters()} == {torch.float32}
    assert low.classifier.texts(["a red circle"]).dtype is torch.float32


def test_a_batch_of_rounded_crops_equals_its_singles():
    low = segmenter(CPU, Precision.BFLOAT16)
    images = [scene.image for scene in held_out_scenes(2, seed=0)]
    vocabulary, recipe = Vocabulary.of(WORDS[:6]), preset("demo")
    together = low.segment(images, vocabulary, recipe)
    alone = [low.segment([image], vocabulary, recipe)[0] for image in images]
    assert [one.to_json() for one in together] == [one.to_json() for one in alone]
