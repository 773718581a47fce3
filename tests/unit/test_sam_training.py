"""What the tiny SAM is shown and asked for."""

import numpy as np
import pytest
import torch

from demo.sam_training import TINY, Lesson, SamStage, Window, encode, lesson, mask_loss, overlap, random_scene
from demo.scenes import Split, draw_scene, generator


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    torch.manual_seed(0)
    return SamStage(tmp_path_factory.mktemp("sam"))


def drawn(seed: int, *, windowed: bool) -> Lesson:
    rng = generator(Split.TRAIN, seed)
    return lesson(rng, random_scene(rng), windowed=windowed)


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


def test_the_right_mask_costs_nothing_and_overlaps_wholly():
    masks = torch.zeros(1, 32, 32)
    masks[0, 8:20, 8:20] = 1
    right = (masks[:, None].expand(-1, 4, -1, -1) - 0.5) * 40
    assert mask_loss(right, masks).max() < 1e-3
    assert (overlap(right, masks) == 1).all()
    assert (mask_loss(-right, masks) > 1).all()
    assert (overlap(-right, masks) == 0).all()


def test_a_scene_without_objects_asks_for_no_mask():
    rng = np.random.default_rng(0)
    scene = draw_scene(rng)
    scene.labels[:] = 0
    one = lesson(rng, scene, windowed=True)
    assert not one.on_object.any()
    assert not one.masks.any()


def test_a_step_has_a_finite_loss_with_a_gradient(stage):
    loss, parts = stage.loss(generator(Split.TRAIN, 3))
    loss.backward()
    assert all(np.isfinite(value) for value in parts.values())
    assert stage.model.image_encoder.patch_embed.proj.weight.grad.abs().sum() > 0
