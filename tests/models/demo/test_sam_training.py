"""What the tiny SAM is shown and asked for."""

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
    one = drawn(seed, windowed=windowed)
    side = TINY.patch * one.window.side
    assert one.pixels.shape == (3, side, side)
    for (x, y), mask, on_object in zip(one.points.tolist(), one.masks, one.on_object, strict=True):
        column = int((x + 0.5 - one.window.left * TINY.patch) * 4 / TINY.patch)
        row = int((y + 0.5 - one.window.top * TINY.patch) * 4 / TINY.patch)
        near = mask[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        assert bool(near.max() > 0) == bool(on_object)
        assert bool(mask.any()) == bool(on_object)


def test_a_window_is_the_part_of_the_picture_that_it_says():
    window = Window(top=8, left=16, side=16)
    sheet = torch.arange(TINY.grid**2).reshape(TINY.grid, TINY.grid)
    assert torch.equal(window.of(sheet), sheet[8:24, 16:32])


def test_the_encoder_of_a_whole_picture_is_the_packages(stage):
    one = drawn(0, windowed=False)
    with torch.no_grad():
        theirs = stage.model.image_encoder(one.pixels[None])
        ours = encode(stage.model, [one])
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=1).min() > 0.98  # ours is in bfloat16


def a_square() -> torch.Tensor:
    masks = torch.zeros(1, 32, 32)
    masks[0, 8:20, 8:20] = 1
    return masks


def logits_of(mask: torch.Tensor) -> torch.Tensor:
    return (mask[:, None].expand(-1, 4, -1, -1) - 0.5) * 12


def test_the_right_mask_costs_next_to_nothing_and_overlaps_wholly():
    masks = a_square()
    right, nobody = logits_of(masks), torch.zeros_like(masks)
    # Dice counts what is left of doubt over the whole square.
    assert mask_loss(right, masks, nobody).max() < 0.01
    assert (overlap(right, masks) == 1).all()
    assert (mask_loss(-right, masks, nobody) > 1).all()
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
    nobody = torch.zeros_like(masks)
    decided, doubting = logits_of(masks), logits_of(masks)
    doubting[..., 20] = torch.logit(torch.tensor(0.3))
    assert (mask_loss(decided, masks, nobody) < mask_loss(doubting, masks, nobody)).all()


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
    one = drawn(seed, windowed=False)
    both = one.masks + one.rivals
    assert both.max() <= 1 + 1e-5
    on_ground = ~one.on_object
    assert torch.equal(both[on_ground], one.rivals[on_ground])


def test_a_scene_without_objects_asks_for_no_mask():
    rng = np.random.default_rng(0)
    scene = draw_scene(rng)
    scene.labels[:] = 0
    one = make_sample(rng, scene, windowed=True)
    assert not one.on_object.any()
    assert not one.masks.any()


def test_a_step_has_a_finite_loss_with_a_gradient(stage):
    loss, parts = stage.loss(generator(Split.TRAIN, 3))
    loss.backward()
    assert all(np.isfinite(value) for value in parts.values())
    assert stage.model.image_encoder.patch_embed.proj.weight.grad.abs().sum() > 0
