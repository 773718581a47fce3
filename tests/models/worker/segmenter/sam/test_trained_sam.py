"""The tiny SAM of demo/weights: its masks are those of the official generator, and they improve boundaries."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from car.presets import preset
from demo.clip_models import WEIGHTS
from demo.scenes import held_out_scenes
from evaluation.metrics import mask_iou
from evaluation.shapes import evaluate
from tests.support.sams import official
from worker.models.weights import load_pair, load_sam
from worker.segmenter.segmenter import Segmenter

CPU = torch.device("cpu")
RECIPE = replace(preset("demo"), sam=True)
MANY = replace(RECIPE, sam_pred_iou=0.75, sam_stability=0.85)
"""The preset accepts only the best masks, on some scenes none."""


@pytest.fixture(scope="module")
def sam():
    return load_sam(WEIGHTS / "sam", device=CPU)


@pytest.mark.parametrize("size", [(160, 160), (240, 150)])
def test_its_masks_are_those_of_the_official_generator(sam, size):
    """One to one without duplicates, in the same order."""
    counted = agreeing = 0
    for scene in held_out_scenes(3, seed=6, size=size):
        regions, expected = sam(scene.image, MANY), official(sam.network, scene.image, MANY)
        assert len(regions) == len(expected)
        pairs = zip(regions, expected, strict=True)
        agreeing += sum(mask_iou(a.to_mask(scene.labels.shape), b["segmentation"]) >= 0.98 for a, b in pairs)
        counted += len(expected)
    assert counted >= 3
    assert agreeing >= 0.98 * counted


def test_it_finds_the_objects_of_a_scene(sam):
    for scene in held_out_scenes(3, seed=7):
        masks = [region.to_mask(scene.labels.shape) for region in sam(scene.image, MANY)]
        for k in np.unique(scene.labels[scene.labels > 0]):
            assert max(mask_iou(scene.labels == k, mask) for mask in masks) > 0.8


def test_it_improves_boundaries():
    pair = load_pair(WEIGHTS / "proposal", WEIGHTS / "classifier", device=CPU)
    segmenter = Segmenter(pair.proposal, pair.classifier, sam=load_sam(WEIGHTS / "sam", device=CPU))
    result = evaluate(segmenter, held_out_scenes(20, seed=1), RECIPE, one_step=False)
    plain = result.without_sam
    assert result.sam_share > 0.3
    assert result.miou > plain.miou
    assert result.boundary_iou > plain.boundary_iou + 0.05
    assert result.boundary_f_fine > plain.boundary_f_fine
    assert result.boundary_f >= plain.boundary_f  # within two pixels masks of the CRF are nearly perfect


def test_it_is_small_and_finite():
    folder = WEIGHTS / "sam"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3_000_000
    assert all(torch.isfinite(tensor).all() for tensor in load_file(folder / "model.safetensors").values())
