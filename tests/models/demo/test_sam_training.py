"""Training data and losses of the tiny SAM."""

import numpy as np
import pytest
import torch

from demo.sam_dataset import TINY, SamSample, Window, contacts, make_sample, random_scene
from demo.sam_training import SamStage, encode, mask_loss, overlap
from demo.scenes import Split, draw_scene, generator


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    torch.manual_seed(0)
    return SamStage(tmp_path_factory.mktemp("sam"))


def drawn(seed: int, *, windowed: bool) -> SamSample:
    rng = generator(Split.TRAIN, seed)
    return make_sample(rng, random_scene(rng), windowed=windowed)


@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_a_point_lies_on_the_mask_that_is_asked_for_it(seed, windowed):
    sample = drawn(seed, windowed=windowed)
    side = TINY.patch * sample.window.side
    assert sample.pixels.shape == (3, side, side)
    for (x, y), mask, on_object in zip(sample.points.tolist(), sample.masks, sample.on_object, strict=True):
        column = int((x + 0.5 - sample.window.left * TINY.patch) * 4 / TINY.patch)
        row = int((y + 0.5 - sample.window.top * TINY.patch) * 4 / TINY.patch)
        near = mask[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        assert bool(near.max() > 0) == bool(on_object)
        assert bool(mask.any()) == bool(on_object)


def test_a_window_is_the_part_of_the_image_that_it_says():
    window = Window(top=8, left=16, side=16)
    sheet = torch.arange(TINY.grid**2).reshape(TINY.grid, TINY.grid)
    assert torch.equal(window.from_mask(sheet), sheet[8:24, 16:32])


def test_the_encoder_of_a_whole_image_is_the_packages(stage):
    sample = drawn(0, windowed=False)
    with torch.no_grad():
        official = stage.model.image_encoder(sample.pixels[None])
        embedding = encode(stage.model, [sample])
    assert torch.nn.functional.cosine_similarity(embedding, official, dim=1).min() > 0.98  # embedding is in bfloat16


def a_square() -> torch.Tensor:
    masks = torch.zeros(1, 32, 32)
    masks[0, 8:20, 8:20] = 1
    return masks


def logits_of(mask: torch.Tensor) -> torch.Tensor:
    return (mask[:, None].expand(-1, 4, -1, -1) - 0.5) * 12


def test_the_right_mask_costs_next_to_nothing_and_overlaps_wholly():
    masks = a_square()
    right, no_rivals = logits_of(masks), torch.zeros_like(masks)
    # Dice counts what is left of doubt over the whole square.
    assert mask_loss(right, masks, no_rivals).max() < 0.01
    assert (overlap(right, masks) == 1).all()
    assert (mask_loss(-right, masks, no_rivals) > 1).all()
    assert (overlap(-right, masks) == 0).all()


def test_bleeding_into_a_neighbour_costs_more_than_into_the_ground():
    masks, bled, rivals = a_square(), a_square(), torch.zeros(1, 32, 32)
    bled[0, 12:16, 20:24] = 1
    rivals[0, 8:20, 20:28] = 1
    into_ground = mask_loss(logits_of(bled), masks, torch.zeros_like(masks))
    assert (mask_loss(logits_of(bled), masks, rivals) > 1.2 * into_ground).all()


def test_a_half_covered_rim_is_asked_for_where_it_lies_but_decided():
    """The stability score is of logits between -1 and 1: few may lie there."""
    masks = a_square()
    masks[0, 8:20, 20] = 0.3
    no_rivals = torch.zeros_like(masks)
    decided, doubting = logits_of(masks), logits_of(masks)
    doubting[..., 20] = torch.logit(torch.tensor(0.3))
    assert (mask_loss(decided, masks, no_rivals) < mask_loss(doubting, masks, no_rivals)).all()


def test_contacts_are_where_another_object_is_near():
    objects = np.zeros((40, 40), np.int32)
    objects[5:35, 2:18], objects[5:35, 18:36] = 1, 2
    assert contacts(objects)[20, [14, 20]].all()
    assert not contacts(objects)[20, [5, 30]].any()
    assert not contacts(objects)[2].any()
    objects[objects == 2] = 0
    assert not contacts(objects).any()


@pytest.mark.parametrize("seed", range(6))
def test_rivals_are_other_objects(seed):
    sample = drawn(seed, windowed=False)
    both = sample.masks + sample.rivals
    assert both.max() <= 1 + 1e-5
    on_ground = ~sample.on_object
    assert torch.equal(both[on_ground], sample.rivals[on_ground])


def test_a_scene_without_objects_asks_for_no_mask():
    rng = np.random.default_rng(0)
    scene = draw_scene(rng)
    scene.labels[:] = 0
    sample = make_sample(rng, scene, windowed=True)
    assert not sample.on_object.any()
    assert not sample.masks.any()


def test_a_step_has_a_finite_loss_with_a_gradient(stage):
    loss, parts = stage.loss(generator(Split.TRAIN, 3))
    loss.backward()
    assert all(np.isfinite(value) for value in parts.values())
    assert stage.model.image_encoder.patch_embed.proj.weight.grad.abs().sum() > 0
