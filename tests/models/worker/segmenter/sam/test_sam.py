import numpy as np
import pytest
import torch
from segment_anything import sam_model_registry
from segment_anything.utils.amg import build_point_grid

from car.presets import apply_settings, preset
from evaluation import random_models
from evaluation.metrics import mask_iou
from evaluation.synthetic_images import tiled_image
from tests.support.images import paint
from tests.support.sams import official, random_sam
from worker.segmenter.sam.automatic_masks import AutomaticMasks, grid, resize
from worker.segmenter.sam.decoder import Decoder, ImageEmbedding
from worker.segmenter.sam.network import VIT_B, VIT_H, VIT_L, SamSizes, build

RANDOM = SamSizes(
    image_size=96, patch=8, width=24, depth=2, heads=2, global_blocks=(1,), window=5, prompt_width=32,
    decoder_heads=4, decoder_mlp=64, quality_hidden=32, mask_prompt_width=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def network():
    return random_sam(RANDOM)


def recipe(**settings):
    return apply_settings(preset("demo"), {f"sam_{key}": str(value) for key, value in settings.items()})


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
    image, settings = paint(*size), recipe(points_per_side=7, **filters)
    regions = AutomaticMasks(network, point_batch_size=5)(image, settings)
    expected = [mask for mask in official(network, image, settings) if mask["area"]]
    assert len(expected) > 1
    assert len(regions) == len(expected)
    ious = [
        max(mask_iou(region.to_mask(image.shape[:2]), mask["segmentation"]) for region in regions) for mask in expected
    ]
    assert min(ious) >= 0.98
    assert [region.quality for region in regions] == pytest.approx(
        [mask["predicted_iou"] for mask in expected], abs=1e-5
    )


def test_each_filter_of_the_comparison_removes_masks(network):
    image = paint()
    counts = [
        len(AutomaticMasks(network)(image, recipe(points_per_side=7, pred_iou=p, stability=s, box_nms=n)))
        for p, s, n in [(0, 0, 1), (0.9, 0, 1), (0, 0.3, 1), (0, 0, 0.5)]
    ]
    assert counts[0] > max(counts[1:])
    assert min(counts) > 0


def test_the_point_batch_size_changes_no_mask(network):
    image, settings = paint(), recipe(points_per_side=6, pred_iou=0, stability=0.3)
    small, large = (AutomaticMasks(network, point_batch_size=count)(image, settings) for count in (4, 36))
    assert len(small) == len(large)
    assert all(mask_iou(a.to_mask((48, 64)), b.to_mask((48, 64))) > 0.98 for a, b in zip(small, large, strict=True))


def count_encoded(network):
    """Return a list that receives the number of images of each of the encoder's batches."""
    batches = []
    network.image_encoder.patch_embed.register_forward_hook(
        lambda _module, pixels, _out: batches.append(len(pixels[0]))
    )
    return batches


def test_an_image_is_encoded_once_for_all_recipes(network):
    sam, image, batches = AutomaticMasks(network), paint(), count_encoded(network)
    first = sam(image, recipe(points_per_side=4, pred_iou=0, stability=0))
    assert sam(image, recipe(points_per_side=5, pred_iou=0, stability=0)) != first
    assert sam(image.copy(), recipe(points_per_side=4, pred_iou=0, stability=0)) is first
    assert batches == [1]
    sam(image[:, 1:], recipe(points_per_side=4))
    sam(image.reshape(64, 48, 3), recipe(points_per_side=4))
    assert batches == [1, 1, 1]


def test_the_oldest_embeddings_leave_the_cache(network):
    sam, batches = AutomaticMasks(network, cache_size=2), count_encoded(network)
    settings = recipe(points_per_side=2, pred_iou=0, stability=0)
    for seed in (0, 1, 2, 0):
        sam(paint(seed=seed), settings)
    assert batches == [1, 1, 1, 1]
    sam(paint(seed=2), settings)
    assert batches == [1, 1, 1, 1]


def test_half_precision_finds_the_same_masks():
    """As on CUDA: patches are float16, and all that is compared with a threshold is float32."""
    image, settings = tiled_image(96, 128), recipe(points_per_side=8, pred_iou=0.55, stability=0.05, box_nms=1)
    halves, singles = (
        AutomaticMasks.for_network(random_models.sam(random_models.TINY_SAM), precision=precision)(image, settings)
        for precision in (torch.float16, torch.float32)
    )
    assert len(singles) > 10
    unmatched = [region.to_mask(image.shape[:2]) for region in halves]
    matched = 0
    for region in singles:
        ious = [mask_iou(mask, region.to_mask(image.shape[:2])) for mask in unmatched]
        if max(ious) >= 0.98:
            unmatched.pop(int(np.argmax(ious)))
            matched += 1
    assert matched >= 0.98 * len(singles)


def test_numbers_that_overflow_half_precision_are_computed_in_float32():
    networks = [random_models.sam(random_models.TINY_SAM) for _ in range(2)]
    for network in networks:
        network.image_encoder.patch_embed.proj.weight *= 1e5
        network.image_encoder.patch_embed.proj.weight.clamp_(-6e4, 6e4)
    half, single = (
        AutomaticMasks.for_network(network, precision=precision).embed(tiled_image(96, 128))
        for network, precision in zip(networks, (torch.float16, torch.float32), strict=True)
    )
    assert half.dtype is torch.float16
    assert (half.float() - single).abs().max() < 0.01 * single.abs().max()


def test_an_image_without_good_masks_has_no_regions(network):
    assert AutomaticMasks(network)(paint(), recipe(points_per_side=3, pred_iou=1, stability=1)) == ()


def test_regions_are_sorted_by_quality_and_know_their_area(network):
    regions = AutomaticMasks(network)(paint(), recipe(points_per_side=6, pred_iou=0, stability=0))
    qualities = [region.quality for region in regions]
    assert qualities == sorted(qualities, reverse=True)
    assert all(region.area == region.pixels.sum() > 0 for region in regions)
    assert all(region.pixels.any(1)[[0, -1]].all() and region.pixels.any(0)[[0, -1]].all() for region in regions)


def test_points_are_those_of_the_official_generator():
    assert np.allclose(grid(9), build_point_grid(9), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("size", "becomes"), [((10, 20), (48, 96)), ((300, 200), (96, 64)), ((1, 500), (1, 96))])
def test_images_are_resized_by_their_longer_side(size, becomes):
    assert resize(np.zeros((*size, 3), np.uint8), 96).shape == (*becomes, 3)


def decode(network, embedding, points):
    decoder = Decoder(network, ImageEmbedding.from_encoder(network, embedding[0]))
    outputs = decoder.decode(decoder.tokens(points))
    good = torch.ones_like(outputs.quality, dtype=torch.bool)
    return decoder.masks(outputs, good, *embedding.shape[2:])


def test_the_decoder_agrees_with_the_package(network):
    torch.manual_seed(0)
    embedding, points = torch.randn(1, 32, 12, 12), torch.rand(9, 2) * 96
    with torch.inference_mode():
        logits, quality = decode(network, embedding, points)
        sparse, dense = network.prompt_encoder(points=(points[:, None], torch.ones(9, 1)), boxes=None, masks=None)
        positions = network.prompt_encoder.get_dense_pe()
        masks, expected_quality = network.mask_decoder(embedding, positions, sparse, dense, multimask_output=True)
    assert torch.allclose(logits, masks.flatten(0, 1), atol=1e-4)
    assert torch.allclose(quality, expected_quality.flatten(), atol=1e-5)


@pytest.mark.parametrize(("name", "sizes"), [("vit_b", VIT_B), ("vit_l", VIT_L), ("vit_h", VIT_H)])
def test_the_official_sizes_have_the_official_tensors(name, sizes):
    with torch.device("meta"):
        tensors, expected = build(sizes).state_dict(), sam_model_registry[name]().state_dict()
    assert {key: t.shape for key, t in tensors.items()} == {key: t.shape for key, t in expected.items()}
    assert SamSizes.from_json(sizes.to_json()) == sizes


def test_a_missing_or_unknown_size_is_rejected():
    for document in ({"width": 8, "depth": 1}, VIT_B.to_json() | {"colour": 1}):
        with pytest.raises(TypeError):
            SamSizes.from_json(document)
