"""CLIPs and SAMs with seeded random weights: full-size ones to measure speed, tiny ones for tests."""

import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from segment_anything.modeling import Sam
from transformers import CLIPConfig, CLIPModel

from car.recipe import Recipe
from worker.segmenter.clip.encoder import Encoder
from worker.segmenter.clip.network import ClipNetwork, ClipSizes
from worker.segmenter.resizing import Image
from worker.segmenter.sam import network as sam_network
from worker.segmenter.sam.automatic_masks import AutomaticMasks
from worker.segmenter.sam.network import SamSizes

_START, _END = 49406, 49407
_WORDS = 49152
"""Token ids that a word may get; CLIP's own byte and merge ids end here."""
_SAM_GAIN = {"image_encoder": 1.0, "prompt_encoder": 1.0, "mask_decoder": 1.5}
"""Multiplies SAM's random matrices."""


@dataclass(frozen=True)
class Shape:
    """The sizes of one CLIP: all that its speed depends on."""

    patch: int
    image_size: int
    width: int
    heads: int
    depth: int
    text_width: int
    text_heads: int
    text_depth: int
    projection: int


VIT_B16 = Shape(16, 224, 768, 12, 12, 512, 8, 12, 512)
VIT_L14 = Shape(14, 224, 1024, 16, 24, 768, 12, 12, 768)
TINY_F = Shape(16, 64, 64, 4, 4, 32, 2, 2, 48)
TINY_G = Shape(14, 56, 64, 4, 5, 32, 2, 2, 40)
TINY_SAM = SamSizes(
    image_size=256, patch=16, width=64, depth=4, heads=2, global_blocks=(1, 3), window=7, prompt_width=64,
    decoder_heads=4, decoder_mlp=128, quality_hidden=64,
)  # fmt: skip
SAM_SIZES = {"tiny": TINY_SAM, "vit_b": sam_network.VIT_B, "vit_l": sam_network.VIT_L, "vit_h": sam_network.VIT_H}


class WordTokenizer:
    """The part of CLIP's tokenizer that Encoder uses: one id per word or punctuation mark, as in common texts."""

    end_id = _END

    def token_ids(self, text: str) -> list[int]:
        """Return start, words and end of a text, neither padded nor cut."""
        return [_START, *map(_word_id, _words(text)), _END]


def encoder(shape: Shape, *, seed: int, **options: Any) -> Encoder:  # noqa: ANN401 - those of `clip`
    """Return an Encoder of that shape; `options` are those of `clip`."""
    return Encoder(clip(shape, seed=seed, **options), WordTokenizer())


def clip(
    shape: Shape,
    *,
    seed: int,
    scale: float = 100.0,
    gain: float = 1.0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> ClipNetwork:
    """Return a CLIP of that shape. `scale` is exp(logit_scale), 100 in every trained one.

    Weights are transformers' own initialisation. Biases and norms, which would be 0 and 1, are random too, so that an
    error in one of them shows. `gain` multiplies matrices: fresh ones attend to everything alike, which leaves CAA
    only rounding errors to scale up; with 4 the attention of small models differs by position.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(_config(shape)).eval().requires_grad_(requires_grad=False)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.02)
            elif "norm" in name:
                parameter.normal_(1.0, 0.1)
            elif parameter.ndim > 1:
                parameter.mul_(gain)
    model.logit_scale.fill_(torch.tensor(scale).log())
    sizes = ClipSizes.from_config(model.config.to_dict())
    return ClipNetwork.from_tensors(sizes, model.state_dict()).to(device, dtype)


def sam(sizes: SamSizes, device: torch.device | str = "cpu") -> Sam:
    """Return a SAM of those sizes, its weights large enough that masks differ from point to point."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = sam_network.build(sizes).requires_grad_(requires_grad=False)
        for name, parameter in network.named_parameters():
            if "rel_pos" in name or name.endswith("pos_embed"):
                parameter.normal_(std=0.1)
            elif parameter.ndim > 1 and "embed" not in name:
                parameter.normal_(std=_SAM_GAIN[name.split(".")[0]] / parameter[0].numel() ** 0.5)
        # Qualities lie within 0..1 and differ between the masks of a point and between points.
        last = network.mask_decoder.iou_prediction_head.layers[-1]
        last.weight.copy_(0.014 * last.weight[:1] + 0.006 * last.weight)
        last.bias.fill_(0.5)
    return network.to(device)


def sam_recipe(masks: AutomaticMasks, image: Image, points_per_side: int) -> Recipe:
    """Return a recipe whose thresholds a third of the masks pass (quality), and half of those (stability).

    Qualities of random weights have no meaning, so the thresholds are chosen from a few points. Nearly all boxes cover
    the image, so none is removed as a duplicate.
    """
    recipe = replace(Recipe(), sam=True, sam_points_per_side=points_per_side, sam_box_nms=1.0)
    sampled = replace(recipe, sam_points_per_side=6, sam_pred_iou=0.0, sam_stability=0.0)
    qualities = sorted((region.quality for region in masks(image, sampled)), reverse=True)
    threshold = max(qualities[len(qualities) // 3], 1e-6)
    sampled = replace(sampled, sam_pred_iou=threshold)
    stabilities = np.arange(0.0, 1.0, 0.05).tolist()
    passing = [len(masks(image, replace(sampled, sam_stability=stability))) for stability in stabilities]
    stable = max(value for value, count in zip(stabilities, passing, strict=True) if count >= passing[0] / 2)
    return replace(recipe, sam_pred_iou=threshold, sam_stability=stable)


def _config(shape: Shape) -> CLIPConfig:
    def tower(width: int, heads: int, depth: int) -> dict[str, Any]:
        return {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_attention_heads": heads,
            "num_hidden_layers": depth,
            "projection_dim": shape.projection,
            "hidden_act": "quick_gelu",
        }

    vision = {"patch_size": shape.patch, "image_size": shape.image_size}
    text = {"vocab_size": _END + 1, "bos_token_id": _START, "eos_token_id": _END}
    return CLIPConfig(
        projection_dim=shape.projection,
        vision_config=vision | tower(shape.width, shape.heads, shape.depth),
        text_config=text | tower(shape.text_width, shape.text_heads, shape.text_depth),
    )


def _words(text: str) -> list[str]:
    return "".join(letter if letter.isalnum() else f" {letter} " for letter in text.lower()).split()


def _word_id(word: str) -> int:
    return zlib.crc32(word.encode()) % _WORDS
