import numpy as np
import pytest
import torch
from segment_anything import sam_model_registry
from segment_anything.utils.amg import build_point_grid

from car.presets import preset
from evaluation.metrics import mask_iou
from evaluation.speed.sam import TINY, random_network
from evaluation.synthetic_images import tiled_image
from tests.support.images import paint
from tests.support.sams import official, random_sam
from worker.segmenter.sam.automatic_masks import AutomaticMasks, grid, resize
from worker.segmenter.sam.decoder import Decoder, Embedded
from worker.segmenter.sam.network import VIT_B, VIT_H, VIT_L, SamSizes, build

RANDOM = SamSizes(
    image_size=96, patch=8, width=24, depth=2, heads=2, global_blocks=(1,), window=5, prompt_width=32,
    decoder_heads=4, decoder_mlp=64, quality_hidden=32, mask_prompt_width=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def network():
    return random_sam(RANDOM)


def recipe(**settings):
    return preset("demo").with_settings({f"sam_{key}": str(value) for key, value in settings.items()})


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (96, 96), (130, 71)])
@pytest.mark.parametrize(
    "filters",
    [
        {"pred_iou": 0, "stability": 0, "box_nms": 1},
        {"pred_iou": 0.9, "stability": 0, "box_nms": 1},
        {"pred_iou": 0.1, "stability": 0.2, "box_nms": 1},
    ],
)
def test_automatic_masks_are_those_of_the_official_generator(network, size, filters):
    image, wanted = paint(*size), recipe(points_per_side=7, **filters)
    ours = AutomaticMasks(network, points_at_once=5)(image, wanted)
    theirs = [one for one in official(network, image, wanted) if one["area"]]
    assert len(theirs) > 1
    assert len(ours) == len(theirs)
    ious = [max(mask_iou(region.whole(image.shape[:2]), one["segmentation"]) for region in ours) for one in theirs]
    assert min(ious) >= 0.98
    assert [region.quality for region in ours] == pytest.approx([one["predicted_iou"] for one in theirs], abs=1e-5)


def test_the_filters_of_that_comparison_do_something(network):
    image = paint()
    counts = [
        len(AutomaticMasks(network)(image, recipe(points_per_side=7, pred_iou=p, stability=s, box_nms=n)))
        for p, s, n in [(0, 0, 1), (0.9, 0, 1), (0, 0.3, 1), (0, 0, 0.5)]
    ]
    assert counts[0] > max(counts[1:])
    assert min(counts) > 0


def test_how_many_points_share_a_pass_changes_no_mask(network):
    image, wanted = paint(), recipe(points_per_side=6, pred_iou=0, stability=0.3)
    one, other = (AutomaticMasks(network, points_at_once=count)(image, wanted) for count in (4, 36))
    assert len(one) == len(other)
    assert all(mask_iou(a.whole((48, 64)), b.whole((48, 64))) > 0.98 for a, b in zip(one, other, strict=True))


def looks(network):
    """Counts the pictures that the image encoder is shown."""
    seen = []
    network.image_encoder.patch_embed.register_forward_hook(lambda _module, pixels, _out: seen.append(len(pixels[0])))
    return seen


def test_a_picture_is_encoded_once_whatever_the_recipes(network):
    sam, image, seen = AutomaticMasks(network), paint(), looks(network)
    one = sam(image, recipe(points_per_side=4, pred_iou=0, stability=0))
    assert sam(image, recipe(points_per_side=5, pred_iou=0, stability=0)) != one
    assert sam(image.copy(), recipe(points_per_side=4, pred_iou=0, stability=0)) is one
    assert seen == [1]
    sam(image[:, 1:], recipe(points_per_side=4))
    sam(image.reshape(64, 48, 3), recipe(points_per_side=4))
    assert seen == [1, 1, 1]


def test_what_was_seen_long_ago_is_forgotten(network):
    sam, seen = AutomaticMasks(network, kept=2), looks(network)
    wanted = recipe(points_per_side=2, pred_iou=0, stability=0)
    for seed in (0, 1, 2, 0):
        sam(paint(seed=seed), wanted)
    assert seen == [1, 1, 1, 1]
    sam(paint(seed=2), wanted)
    assert seen == [1, 1, 1, 1]


def test_pictures_of_any_sizes_share_a_pass_that_is_always_filled(network):
    sam, seen = AutomaticMasks(network, images_at_once=2), looks(network)
    images = [paint(64, 48), paint(48, 64), paint(96, 30), paint(64, 48)]
    together = sam.embed(images)
    assert seen == [2, 2]
    assert together[0] is together[3]
    wanted = recipe(points_per_side=4, pred_iou=0, stability=0)
    assert [sam(image, wanted) for image in images] == [
        AutomaticMasks(network, images_at_once=2)(image, wanted) for image in images
    ]


def test_half_precision_finds_the_same_masks():
    """What CUDA computes in, here on the CPU: patches are half, and all that is compared with a threshold is not."""
    image, wanted = tiled_image(96, 128), recipe(points_per_side=8, pred_iou=0.55, stability=0.05, box_nms=1)
    halves, wholes = (
        AutomaticMasks.suited_to(random_network(TINY), precision=precision)(image, wanted)
        for precision in (torch.float16, torch.float32)
    )
    assert len(wholes) > 10
    left = [region.whole(image.shape[:2]) for region in halves]
    matched = 0
    for region in wholes:
        ious = [mask_iou(mask, region.whole(image.shape[:2])) for mask in left]
        if max(ious) >= 0.98:
            left.pop(int(np.argmax(ious)))
            matched += 1
    assert matched >= 0.98 * len(wholes)


def test_numbers_that_outgrow_half_precision_are_computed_in_float32():
    networks = [random_network(TINY) for _ in range(2)]
    for network in networks:
        network.image_encoder.patch_embed.proj.weight *= 1e5
        network.image_encoder.patch_embed.proj.weight.clamp_(-6e4, 6e4)
    half, whole = (
        AutomaticMasks.suited_to(network, precision=precision).embed([tiled_image(96, 128)])[0]
        for network, precision in zip(networks, (torch.float16, torch.float32), strict=True)
    )
    assert half.dtype is torch.float16
    assert (half.float() - whole).abs().max() < 0.01 * whole.abs().max()


def test_a_picture_in_which_nothing_is_good_enough_has_no_regions(network):
    assert AutomaticMasks(network)(paint(), recipe(points_per_side=3, pred_iou=1, stability=1)) == ()


def test_regions_come_in_the_order_of_falling_quality_and_know_their_area(network):
    found = AutomaticMasks(network)(paint(), recipe(points_per_side=6, pred_iou=0, stability=0))
    qualities = [region.quality for region in found]
    assert qualities == sorted(qualities, reverse=True)
    assert all(region.area == region.pixels.sum() > 0 for region in found)
    assert all(region.pixels.any(1)[[0, -1]].all() and region.pixels.any(0)[[0, -1]].all() for region in found)


def test_points_lie_where_the_official_generator_puts_them():
    assert np.allclose(grid(9), build_point_grid(9), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("size", "becomes"), [((10, 20), (48, 96)), ((300, 200), (96, 64)), ((1, 500), (1, 96))])
def test_pictures_are_resized_by_their_longer_side(size, becomes):
    assert resize(np.zeros((*size, 3), np.uint8), 96).shape == (*becomes, 3)


def decoded(network, embedding, points):
    decoder = Decoder(network, Embedded.of(network, embedding[0]))
    answers = decoder.ask(decoder.tokens(points))
    every = torch.ones_like(answers.quality, dtype=torch.bool)
    return decoder.masks(answers, every, *embedding.shape[2:])


def test_the_decoder_agrees_with_the_package(network):
    torch.manual_seed(0)
    embedding, points = torch.randn(1, 32, 12, 12), torch.rand(9, 2) * 96
    with torch.inference_mode():
        ours, quality = decoded(network, embedding, points)
        sparse, dense = network.prompt_encoder(points=(points[:, None], torch.ones(9, 1)), boxes=None, masks=None)
        positions = network.prompt_encoder.get_dense_pe()
        masks, theirs = network.mask_decoder(embedding, positions, sparse, dense, multimask_output=True)
    assert torch.allclose(ours, masks.flatten(0, 1), atol=1e-4)
    assert torch.allclose(quality, theirs.flatten(), atol=1e-5)


@pytest.mark.parametrize(("name", "sizes"), [("vit_b", VIT_B), ("vit_l", VIT_L), ("vit_h", VIT_H)])
def test_the_official_sizes_hold_the_official_tensors(name, sizes):
    with torch.device("meta"):
        ours, theirs = build(sizes).state_dict(), sam_model_registry[name]().state_dict()
    assert {key: t.shape for key, t in ours.items()} == {key: t.shape for key, t in theirs.items()}
    assert SamSizes.from_json(sizes.to_json()) == sizes


def test_a_size_that_is_missing_or_unknown_is_refused():
    for document in ({"width": 8, "depth": 1}, VIT_B.to_json() | {"colour": 1}):
        with pytest.raises(TypeError):
            SamSizes.from_json(document)
