"""Parity of a CUDA device with the CPU: `make test-gpu`. test_device_parity.py runs the same checks on the CPU."""

import json

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.__main__ import app as benchmarks
from car.options import Precision
from demo.scenes import held_out_scenes
from tests.support import device_parity
from tests.support.images import paint
from worker.segmenter.segmenter import Batches

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here"),
]


@pytest.fixture(scope="module")
def cuda():
    return torch.device("cuda")


@pytest.fixture(scope="module")
def scenes():
    return held_out_scenes(24, seed=11)


@pytest.mark.parametrize("precision", [Precision.FLOAT16, Precision.BFLOAT16, Precision.FLOAT32])
def test_masks_are_those_of_float32_on_a_cpu(cuda, scenes, precision):
    agreement = device_parity.parity(cuda, precision, scenes)
    assert agreement.mean_iou >= 0.98
    # Labels may differ only if their score is so near theta that rounding decides.
    assert all(tie.distance < 0.02 for tie in agreement.near_ties), agreement.near_ties
    assert agreement.same_words >= 0.9 * agreement.images


def test_an_image_does_not_depend_on_the_others_in_a_shared_batch(cuda, scenes):
    together, singles = device_parity.segment_together_and_singly(cuda, scenes[:10], Batches.for_device(cuda))
    assert together == singles


@pytest.mark.parametrize(("height", "width"), [(384, 512), (375, 500), (512, 512)])
@pytest.mark.parametrize("count", [1, 5, 20])
def test_the_crf_labels_as_pydensecrf_does(cuda, height, width, count):
    assert device_parity.crf_agreement(cuda, height, width, count) >= 0.999


@pytest.mark.parametrize("prompts", device_parity.PROMPTS)
@pytest.mark.parametrize(("height", "width"), [(375, 500), (512, 384)])
def test_prompted_crops_are_those_of_the_host_to_the_bit(cuda, prompts, height, width):
    on_device, on_host = device_parity.prompted(cuda, prompts, height, width)
    assert torch.equal(on_device, on_host)


@pytest.mark.parametrize("size", [(130, 71), (640, 480)])
def test_sam_finds_the_masks_that_it_finds_on_a_cpu(cuda, size):
    count, same = device_parity.sam_matches(cuda, paint(*size))
    assert count > 3
    assert same >= 0.98 * count


def test_every_benchmark_measures_its_figures(tmp_path):
    done = CliRunner().invoke(
        benchmarks, ["all", "--device", "cuda", "--models", "tiny", "--json", str(tmp_path / "all")]
    )
    assert done.exit_code == 0, done.output
    (case,) = json.loads((tmp_path / "all" / "segmenter.json").read_text())["cases"].values()
    assert case["stream"]["images_per_s"] > 0
    assert 0 < case["stream"]["busy_share"] <= 1
    assert case["stream"]["peak_memory"] > 0
    assert case["counts"]["ours"]["uploaded_bytes"] > 0
