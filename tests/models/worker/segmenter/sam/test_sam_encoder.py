"""SAM's image encoder: every code path agrees with the package's module."""

from dataclasses import replace

import pytest
import torch

from worker.segmenter.sam.encoder import _attend, encode
from worker.segmenter.sam.network import SamSizes, build

SIZES = SamSizes(
    image_size=96, patch=8, width=24, depth=3, heads=2, global_blocks=(1,), window=5, prompt_width=16,
    decoder_heads=2, decoder_mlp=16, quality_hidden=16, mask_prompt_width=4,
)  # fmt: skip
"""A grid of 12 x 12 patches: windows of 5 exceed it on two sides."""


def image_encoder(sizes):
    torch.manual_seed(1)
    encoder = build(sizes).image_encoder.requires_grad_(requires_grad=False)
    for name, parameter in encoder.named_parameters():
        if "rel_pos" in name or name.endswith(("bias", "pos_embed")):
            parameter.normal_(std=0.5)
        elif parameter.ndim > 1:
            parameter.normal_(std=1.5 / parameter[0].numel() ** 0.5)
    return encoder


@pytest.mark.parametrize(
    "sizes",
    [
        SIZES,
        replace(SIZES, window=4),
        replace(SIZES, window=12),
        replace(SIZES, window=20),
        replace(SIZES, relative_positions=False),
        replace(SIZES, global_blocks=(0, 1, 2)),
    ],
    ids=["windows exceed the grid", "windows fit", "one window", "wider window", "no relative positions", "no windows"],
)
def test_the_encoder_agrees_with_the_package(sizes):
    encoder, pixels = image_encoder(sizes), torch.randn(2, 3, 96, 96)
    expected = encoder(pixels)
    assert torch.allclose(encode(encoder, pixels), expected, atol=2e-5 * float(expected.abs().max()))


def test_relative_positions_change_the_result():
    """Otherwise the comparison above would prove nothing about them."""
    encoder, pixels = image_encoder(SIZES), torch.randn(1, 3, 96, 96)
    before = encode(encoder, pixels)
    encoder.blocks[1].attn.rel_pos_w[3] += 1
    assert not torch.allclose(encode(encoder, pixels), before, atol=1e-3)


@pytest.mark.parametrize("block", [0, 1])
def test_the_fused_kernel_and_batches_attend_alike(block, monkeypatch):
    """CUDA uses the former, a CPU the latter."""
    attention = image_encoder(SIZES).blocks[block].attn
    side = 12 if block == 1 else 5
    q, k, v = torch.randn(3, 4, 2, side**2, 12)
    fused = _attend(attention, q, k, v, side, fused=True)
    for max_scores in (1 << 20, 3 * side**2):
        monkeypatch.setattr("worker.segmenter.sam.encoder._MAX_SCORES", max_scores)
        assert torch.allclose(_attend(attention, q, k, v, side, fused=False), fused, atol=1e-5)


def test_a_batch_equals_its_singles_and_half_precision_comes_close():
    encoder, pixels = image_encoder(SIZES), torch.randn(3, 3, 96, 96)
    together = encode(encoder, pixels)
    singles = torch.cat([encode(encoder, image[None]) for image in pixels])
    assert torch.allclose(together, singles, atol=1e-4)
    half = encode(encoder.half(), pixels.half()).float()
    assert (half - together).abs().mean() < 0.005 * together.std()
