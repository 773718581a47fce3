import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.sam import measure_sam
from benchmarks.sam_flop import tera_flop
from evaluation.random_models import TINY_SAM
from worker.segmenter.sam.decoder import Decoder, ImageEmbedding
from worker.segmenter.sam.encoder import encode
from worker.segmenter.sam.network import build


@pytest.fixture(scope="module")
def cost():
    return measure_sam("tiny", 96, 64, 8, "cpu", turns=1)


def test_the_same_masks_are_measured_on_both_sides(cost):
    assert cost.matched_share >= 0.98
    assert cost.counts["ours"]["regions"] > 10
    assert abs(cost.counts["ours"]["regions"] - cost.counts["official"]["regions"]) <= 1


def test_all_stages_are_measured(cost):
    assert set(cost.official_s) == {"encode", "decode", "postprocess", "nms"}
    assert set(cost.ours_s) == {*cost.official_s, "ensemble"}
    figures = json.loads(json.dumps(cost.to_json()))
    assert figures["time_by_floor"] > 1
    assert figures["ratio_official"] > 1


def test_ours_does_less(cost):
    ours, official = cost.counts["ours"], cost.counts["official"]
    assert ours["prompts"] == official["prompts"] == 64
    assert ours["points_decoded"] < official["points_decoded"]
    assert ours["masks_enlarged"] < official["masks_enlarged"]
    assert 8 * ours["bytes_of_regions"] < 1.1 * official["bytes_of_regions"]


def counted(call):
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        call()
    return counter.get_total_flops() / 1e12


@pytest.mark.parametrize("size", [(256, 256), (96, 200)])
def test_the_arithmetic_is_what_torch_counts(size):
    """But for attention over seven tokens and their own small matrices, of which the formula leaves some out."""
    network, points = build(TINY_SAM), torch.rand(8, 2) * 256
    flop = tera_flop(TINY_SAM, size, 8, 8)
    pixels, embedding = torch.randn(1, 3, 256, 256), torch.randn(1, 64, 16, 16)
    assert counted(lambda: network.image_encoder(pixels)) == pytest.approx(flop["official_encode"], rel=0.01)
    assert counted(lambda: encode(network.image_encoder, pixels)) == pytest.approx(flop["encode"], rel=0.01)
    sparse, dense = network.prompt_encoder(points=(points[:, None], torch.ones(8, 1)), boxes=None, masks=None)
    where = network.prompt_encoder.get_dense_pe()
    official = counted(lambda: network.mask_decoder(embedding, where, sparse, dense, multimask_output=True))
    assert official == pytest.approx(flop["official_decode"], rel=0.05)
    decoder = Decoder(network, ImageEmbedding.from_encoder(network, embedding[0]))
    rows, columns = (-(-side * 16 // max(size)) for side in size)

    def decode():
        answers = decoder.decode(decoder.tokens(points))
        decoder.masks(answers, answers.quality < torch.inf, rows, columns)

    assert counted(decode) == pytest.approx(flop["decode"], rel=0.05)


@pytest.mark.parametrize(("sizes", "side"), [("vit_x", 64), ("tiny", 0)])
def test_what_cannot_be_measured_is_refused(sizes, side):
    with pytest.raises(ValueError, match="tiny, vit_b"):
        measure_sam(sizes, side, 64, 2, "cpu", 1)


@pytest.mark.slow
def test_a_sam_of_full_size_finds_the_masks_of_the_official_generator():
    cost = measure_sam("vit_b", 500, 375, 4, "cpu", turns=1)
    assert cost.matched_share >= 0.98
    assert cost.counts["official"]["regions"] >= 5
