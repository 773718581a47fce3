"""From coarse logits to masks: like the package's interpolations, thresholds and boxes over whole images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from segment_anything.utils.amg import batched_mask_to_box, calculate_stability_score
from torch.nn import functional

from evaluation.random_models import TINY_SAM
from worker.segmenter.sam import masks as sam_masks
from worker.segmenter.sam.automatic_masks import resized_size
from worker.segmenter.sam.ensembling import Region
from worker.segmenter.sam.masks import MaskUpscaler
from worker.segmenter.sam.network import build

SIDE, GRID = 128, 8


def logits(count=9, seed=0):
    """Smooth logits like a decoder's: stable masks, unstable ones, an empty one."""
    noise = torch.randn(count, 1, 7, 7, generator=torch.Generator().manual_seed(seed)) * 4
    smooth = functional.interpolate(noise, 4 * GRID, mode="bicubic")[:, 0]
    smooth[0] = -3
    return smooth


def reference(low, size):
    """Sam.postprocess_masks."""
    height, width = resized_size(size, SIDE)
    square = functional.interpolate(low[:, None], (SIDE, SIDE), mode="bilinear", align_corners=False)
    return functional.interpolate(square[..., :height, :width], size, mode="bilinear", align_corners=False)[:, 0]


def select(low, size, min_stability=0.0, threshold=0.0):
    network = build(replace(TINY_SAM, image_size=SIDE, patch=SIDE // GRID))
    network.mask_threshold = threshold
    upscaler = MaskUpscaler.for_size(size, resized_size(size, SIDE), network)
    rows, columns = upscaler.patches
    cropped = low[:, : 4 * rows, : 4 * columns]
    return upscaler, upscaler.select_stable(cropped, torch.arange(len(low)) / 10, min_stability)


@pytest.mark.parametrize("size", [(128, 128), (96, 128), (50, 37), (200, 301), (65, 400), (1, 9), (9, 1)])
@pytest.mark.parametrize("threshold", [0.0, 0.7])
def test_masks_and_boxes_are_those_of_two_interpolations(size, threshold):
    low = logits()
    expected = reference(low, size) > threshold
    filled = expected.flatten(1).any(1)
    _, candidates = select(low, size, threshold=threshold)
    masks = np.unpackbits(candidates.bits.numpy(), axis=2, count=size[1]).astype(bool)
    assert masks.shape == tuple(expected[filled].shape)
    assert (masks != expected[filled].numpy()).mean() < 1e-4  # a logit at the threshold may round either way
    assert torch.equal(candidates.boxes, batched_mask_to_box(torch.from_numpy(masks)))
    assert candidates.quality.tolist() == (torch.arange(9) / 10)[filled].tolist()


@pytest.mark.parametrize("size", [(96, 128), (200, 301)])
def test_masks_are_kept_by_the_stability_of_the_package(size):
    low = logits(30)
    stability = calculate_stability_score(reference(low, size), 0.0, 1.0).nan_to_num(0)
    min_stability = float(stability.sort().values[15:17].mean())
    expected = (torch.arange(30) / 10)[stability >= min_stability]
    assert select(low, size, min_stability)[1].quality.tolist() == expected.tolist()


def test_rows_and_columns_of_padding_are_not_needed():
    assert select(logits(), (64, 128))[0].patches == (5, 8)  # the row beyond the border is interpolated with
    assert select(logits(), (128, 60))[0].patches == (8, 4)


def test_the_length_of_bands_changes_nothing(monkeypatch):
    before = select(logits(), (200, 301))[1]
    monkeypatch.setitem(sam_masks._BAND_LENGTH, "cpu", 1 << 16)
    after = select(logits(), (200, 301))[1]
    assert torch.equal(before.boxes, after.boxes)
    assert (before.bits != after.bits).float().mean() < 1e-4


def test_a_device_packs_bits_like_a_cpu():
    masks = torch.rand(5, 7, 24, generator=torch.Generator().manual_seed(0)) > 0.5
    assert torch.equal(sam_masks._pack_on_device(masks), sam_masks._pack(masks))


@pytest.mark.parametrize("box", [(0, 0, 23, 6), (3, 1, 3, 1), (8, 2, 15, 5), (7, 0, 16, 6)])
def test_a_region_of_packed_rows_is_that_of_the_mask(box):
    mask = np.zeros((7, 24), bool)
    left, top, right, bottom = box
    mask[top : bottom + 1, left : right + 1] = (
        np.random.default_rng(1).random((bottom - top + 1, right - left + 1)) > 0.4
    )
    mask[top, left] = mask[bottom, right] = True
    region = Region.from_packed_rows(np.packbits(mask, axis=1), box, 0.5)
    assert (region.left, region.top, region.width, region.height) == (left, top, right - left + 1, bottom - top + 1)
    assert (region.area, region.quality) == (mask.sum(), 0.5)
    assert np.array_equal(region.to_mask(mask.shape), mask)
