"""Pictures whose attention maps no machine could hold are refused before they are decoded."""

import pytest
import torch

from cli.memory import picture_limits
from worker.images import DEFAULT_LIMITS

CPU = torch.device("cpu")


def test_no_machine_allows_more_than_the_default():
    assert picture_limits(CPU, 16, 0).max_pixels <= DEFAULT_LIMITS.max_pixels
    assert picture_limits(CPU, 1024, 0).max_pixels == DEFAULT_LIMITS.max_pixels


def test_larger_patches_allow_larger_pictures():
    small, large = (picture_limits(CPU, patch, 0).max_pixels for patch in (4, 8))
    assert large == pytest.approx(4 * small, rel=1e-3)


def test_a_laptop_takes_what_the_paper_took():
    assert picture_limits(CPU, 16, 0).max_pixels > 640 * 640


def test_a_picture_that_is_segmented_smaller_may_be_as_large_as_a_file_may_be() -> None:
    assert picture_limits(CPU, 16, 640) == DEFAULT_LIMITS
