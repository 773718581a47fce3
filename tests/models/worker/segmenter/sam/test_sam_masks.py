"""From coarse logits to masks: as the package's two interpolations, thresholds and boxes over whole pictures."""

import numpy as np
import pytest
import torch
from segment_anything.utils.amg import batched_mask_to_box, calculate_stability_score
from torch.nn import functional

from worker.segmenter.sam import masks as sam_masks
from worker.segmenter.sam.automatic_masks import resized_size
from worker.segmenter.sam.ensembling import Region
from worker.segmenter.sam.masks import Canvas

SIDE, GRID, CPU = 128, 8, torch.device("cpu")


def logits(count=9, seed=0):
    """Smooth, as a decoder's are: some stable masks, some not, one empty."""
    noise = torch.randn(count, 1, 7, 7, generator=torch.Generator().manual_seed(seed)) * 4
    smooth = functional.interpolate(noise, 4 * GRID, mode="bicubic")[:, 0]
    smooth[0] = -3
    return smooth


def plain(low, size):
    """Sam.postprocess_masks."""
    height, width = resized_size(size, SIDE)
    whole = functional.interpolate(low[:, None], (SIDE, SIDE), mode="bilinear", align_corners=False)
    return functional.interpolate(whole[..., :height, :width], size, mode="bilinear", align_corners=False)[:, 0]


def screened(low, size, least=0.0, threshold=0.0):
    canvas = Canvas.of(size, resized_size(size, SIDE), grid=GRID, side=SIDE, threshold=threshold, on=CPU)
    rows, columns = canvas.patches
    return canvas, canvas.screen(low[:, : 4 * rows, : 4 * columns], torch.arange(len(low)) / 10, least)


@pytest.mark.parametrize("size", [(128, 128), (96, 128), (50, 37), (200, 301), (65, 400), (1, 9), (9, 1)])
@pytest.mark.parametrize("threshold", [0.0, 0.7])
def test_masks_and_boxes_are_those_of_two_interpolations(size, threshold):
    low = logits()
    whole = plain(low, size) > threshold
    filled = whole.flatten(1).any(1)
    _, found = screened(low, size, threshold=threshold)
    masks = np.unpackbits(found.bits.numpy(), axis=2, count=size[1]).astype(bool)
    assert masks.shape == tuple(whole[filled].shape)
    assert (masks != whole[filled].numpy()).mean() < 1e-4  # a logit at the threshold may round to its other side
    assert torch.equal(found.boxes, batched_mask_to_box(torch.from_numpy(masks)))
    assert found.quality.tolist() == (torch.arange(9) / 10)[filled].tolist()


@pytest.mark.parametrize("size", [(96, 128), (200, 301)])
def test_masks_stay_by_the_stability_of_the_package(size):
    low = logits(30)
    stability = calculate_stability_score(plain(low, size), 0.0, 1.0).nan_to_num(0)
    least = float(stability.sort().values[15:17].mean())
    assert screened(low, size, least)[1].quality.tolist() == (torch.arange(30) / 10)[stability >= least].tolist()


def test_rows_and_columns_of_padding_are_not_asked_for():
    assert screened(logits(), (64, 128))[0].patches == (5, 8)  # the row beside the border lends a half
    assert screened(logits(), (128, 60))[0].patches == (8, 4)


def test_how_rows_and_columns_are_cut_changes_nothing(monkeypatch):
    before = screened(logits(), (200, 301))[1]
    monkeypatch.setitem(sam_masks._PIECE, "cpu", 1 << 16)
    after = screened(logits(), (200, 301))[1]
    assert torch.equal(before.boxes, after.boxes)
    assert (before.bits != after.bits).float().mean() < 1e-4


def test_a_device_packs_as_a_cpu_does():
    masks = torch.rand(5, 7, 24, generator=torch.Generator().manual_seed(0)) > 0.5
    assert torch.equal(sam_masks._packed_on_device(masks), sam_masks._packed(masks))


@pytest.mark.parametrize("box", [(0, 0, 23, 6), (3, 1, 3, 1), (8, 2, 15, 5), (7, 0, 16, 6)])
def test_a_region_of_packed_rows_is_that_of_the_mask(box):
    mask = np.zeros((7, 24), bool)
    left, top, right, bottom = box
    mask[top : bottom + 1, left : right + 1] = (
        np.random.default_rng(1).random((bottom - top + 1, right - left + 1)) > 0.4
    )
    mask[top, left] = mask[bottom, right] = True
    assert Region.unpacked(np.packbits(mask, axis=1), box, 0.5) == Region.of(mask, 0.5)
