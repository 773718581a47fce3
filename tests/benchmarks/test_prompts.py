"""What visual prompts cost is measured of two sides that made the same crops."""

import json

import torch

from benchmarks.prompts import measure_prompts
from car.presets import preset
from evaluation import random_models


def test_both_ways_to_prompted_crops_are_measured() -> None:
    cost = measure_prompts(83, 61, 4, torch.device("cpu"), 1, recipe=preset("coco"))
    assert min(cost.reference_s, cost.ours_s, cost.masks_s) > 0
    assert 0 < cost.box_share <= 1
    assert (cost.crops, cost.crop_bytes) == (4, 4 * 224 * 224 * 3)
    assert min(cost.ours_peak_bytes, cost.reference_peak_bytes) >= cost.crop_bytes
    assert cost.forward_crop_s is None
    document = json.loads(json.dumps(cost.to_json()))
    assert document["ratio"] == cost.ratio
    assert document["prompts"] == ["blur", "gray"]


def test_a_forward_pass_of_g_stands_beside_them_where_g_is_given() -> None:
    g = random_models.encoder(random_models.TINY_G, seed=2)
    cost = measure_prompts(83, 61, 2, torch.device("cpu"), 1, g=g)
    assert cost.crop_bytes == 2 * g.image_size**2 * 3
    assert cost.forward_crop_s is not None
    assert cost.forward_crop_s > 0
