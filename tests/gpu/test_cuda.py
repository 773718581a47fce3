"""On a CUDA device: `make test-gpu`. tests/models/worker/segmenter/test_device_parity.py asks the same of the CPU."""

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
    found = device_parity.parity(cuda, precision, scenes)
    assert found.mean_iou >= 0.98
    # A word may part only where its score lies as near to theta as rounding moves it.
    assert all(tie.distance < 0.02 for tie in found.near_ties), found.near_ties
    assert found.same_words >= 0.9 * found.pictures


def test_a_picture_does_not_depend_on_its_company(cuda, scenes):
    together, alone = device_parity.company(cuda, scenes[:10], Batches.suited_to(cuda))
    assert together == alone


@pytest.mark.parametrize(("height", "width"), [(384, 512), (375, 500), (512, 512)])
@pytest.mark.parametrize("words", [1, 5, 20])
def test_the_crf_labels_as_pydensecrf_does(cuda, height, width, words):
    assert device_parity.crf_agreement(cuda, height, width, words) >= 0.999


@pytest.mark.parametrize("prompts", device_parity.SHOWN)
@pytest.mark.parametrize(("height", "width"), [(375, 500), (512, 384)])
def test_prompted_crops_are_those_of_the_host_to_the_bit(cuda, prompts, height, width):
    ours, theirs = device_parity.prompted(cuda, prompts, height, width)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("size", [(130, 71), (640, 480)])
def test_sam_finds_the_masks_that_it_finds_on_a_cpu(cuda, size):
    many, same = device_parity.sam_matches(cuda, paint(*size))
    assert many > 3
    assert same >= 0.98 * many


def test_every_benchmark_fills_its_figures(tmp_path):
    done = CliRunner().invoke(
        benchmarks, ["all", "--device", "cuda", "--models", "tiny", "--json", str(tmp_path / "all")]
    )
    assert done.exit_code == 0, done.output
    (case,) = json.loads((tmp_path / "all" / "segmenter.json").read_text())["cases"].values()
    assert case["stream"]["images_per_s"] > 0
    assert 0 < case["stream"]["busy_share"] <= 1
    assert case["stream"]["peak_memory"] > 0
    assert case["counts"]["ours"]["uploaded_bytes"] > 0
