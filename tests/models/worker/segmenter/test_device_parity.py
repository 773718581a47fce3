"""What tests/gpu asks of CUDA, asked of the CPU: the paths of a device, small, so that they are known to run."""

import pytest
import torch

from car.options import Precision
from demo.scenes import held_out_scenes
from tests.support import device_parity
from tests.support.images import paint
from worker.segmenter.segmenter import Batches

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread():
    """Several split a batch's rows among them, each part with kernels of its own: then places in a batch tell."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def scenes():
    return held_out_scenes(3, seed=11)


def test_masks_of_half_the_precision_are_those_of_float32(scenes):
    found = device_parity.parity(CPU, Precision.BFLOAT16, scenes)
    assert found.mean_iou >= 0.98
    assert all(tie.distance < 0.02 for tie in found.near_ties), found.near_ties


def test_a_picture_does_not_depend_on_its_company_in_batches_as_a_device_has_them(scenes):
    together, alone = device_parity.company(CPU, scenes, Batches(images=2, crops=8))
    assert together == alone


@pytest.mark.parametrize("words", [1, 5])
def test_the_crf_labels_as_pydensecrf_does(words):
    assert device_parity.crf_agreement(CPU, 64, 96, words) >= 0.999


@pytest.mark.parametrize("prompts", device_parity.SHOWN)
def test_prompted_crops_of_a_device_are_those_of_the_host_to_the_bit(prompts):
    ours, theirs = device_parity.prompted(CPU, prompts, 75, 100)
    assert torch.equal(ours, theirs)


def test_a_sam_finds_its_own_masks_again():
    many, same = device_parity.sam_matches(CPU, paint(130, 71))
    assert many > 3
    assert same == many
