"""The checks of tests/gpu on a small scale on the CPU, so that the code paths of a device are known to run."""

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
    """Several threads split a batch's rows among different kernels, so the position in a batch would matter."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def scenes():
    return held_out_scenes(3, seed=11)


def test_masks_of_half_the_precision_are_those_of_float32(scenes):
    agreement = device_parity.parity(CPU, Precision.BFLOAT16, scenes)
    assert agreement.mean_iou >= 0.98
    assert all(tie.distance < 0.02 for tie in agreement.near_ties), agreement.near_ties


def test_an_image_does_not_depend_on_the_others_in_a_shared_batch(scenes):
    together, singles = device_parity.segment_together_and_singly(CPU, scenes, Batches(images=2, crops=8))
    assert together == singles


@pytest.mark.parametrize("count", [1, 5])
def test_the_crf_labels_as_pydensecrf_does(count):
    assert device_parity.crf_agreement(CPU, 64, 96, count) >= 0.999


@pytest.mark.parametrize("prompts", device_parity.PROMPTS)
def test_prompted_crops_of_a_device_are_those_of_the_host_to_the_bit(prompts):
    on_device, on_host = device_parity.prompted(CPU, prompts, 75, 100)
    assert torch.equal(on_device, on_host)


def test_two_sams_on_a_cpu_find_the_same_masks():
    count, same = device_parity.sam_matches(CPU, paint(130, 71))
    assert count > 3
    assert same == count
