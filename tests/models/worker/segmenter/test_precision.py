"""Half precision agrees with float32: the same labels except near ties, and masks that overlap by 98 %."""

import pytest
import torch

from car.options import Precision
from car.presets import preset
from car.vocabulary import Vocabulary
from demo.scenes import WORDS, held_out_scenes
from tests.support.parity import Parity, compare
from tests.support.paths import ROOT
from worker.models.weights import load_pair
from worker.segmenter.segmenter import Segmenter

WEIGHTS = ROOT / "demo" / "weights"
CPU = torch.device("cpu")
NEAR = 0.05
"""Rounding changed scores of the scenes by at most 0.025; a score so near theta may change sides."""


def make_segmenter(device, precision):
    pair = load_pair(WEIGHTS / "proposal", WEIGHTS / "classifier", device=device, precision=precision)
    return Segmenter(pair.proposal, pair.classifier)


def parity(device, precision, scenes) -> Parity:
    images = [scene.image for scene in held_out_scenes(scenes, seed=3)]
    reference, half = make_segmenter(device, Precision.FLOAT32), make_segmenter(device, precision)
    return compare(reference, half, images, Vocabulary.from_words(WORDS), preset("demo"))


@pytest.mark.parametrize("precision", [Precision.BFLOAT16, Precision.FLOAT16])
def test_a_cpu_in_half_precision_finds_the_same_labels_and_masks(precision):
    agreement = parity(CPU, precision, 4)
    assert agreement.same_words == agreement.images
    assert agreement.least_iou == 1.0, "f stays in float32, so the same words have the same masks"
    assert 0 < agreement.largest_score_difference < NEAR


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", [Precision.FLOAT16, Precision.BFLOAT16])
def test_masks_of_a_gpu_in_half_precision_overlap_those_of_float32_to_98_percent(precision):
    agreement = parity(torch.device("cuda"), precision, 40)
    assert all(tie.distance < NEAR for tie in agreement.near_ties)
    assert agreement.mean_iou >= 0.98


def test_a_cpu_computes_in_float32_by_default():
    auto = make_segmenter(CPU, Precision.AUTO)
    for encoder in (auto.proposal, auto.classifier):
        assert {tensor.dtype for tensor in encoder._network.parameters()} == {torch.float32}


def test_on_a_cpu_only_the_matrices_of_g_are_rounded():
    bfloat16 = make_segmenter(CPU, Precision.BFLOAT16)
    rounded = {
        name for name, tensor in bfloat16.classifier._network.named_parameters() if tensor.dtype is torch.bfloat16
    }
    assert rounded
    assert all(name.startswith("vision_model.encoder.layers.") and "norm" not in name for name in rounded)
    assert {tensor.dtype for tensor in bfloat16.proposal._network.parameters()} == {torch.float32}
    assert bfloat16.classifier.texts(["a red circle"]).dtype is torch.float32


def test_a_batch_of_rounded_crops_equals_its_singles():
    bfloat16 = make_segmenter(CPU, Precision.BFLOAT16)
    images = [scene.image for scene in held_out_scenes(2, seed=0)]
    vocabulary, recipe = Vocabulary.from_words(WORDS[:6]), preset("demo")
    together = bfloat16.segment(images, vocabulary, recipe)
    singles = [bfloat16.segment([image], vocabulary, recipe)[0] for image in images]
    assert [result.to_json() for result in together] == [result.to_json() for result in singles]
