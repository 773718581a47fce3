"""The embedded CLIP pair: sizes, folders, and the vision tower block by block for training."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from car.clip_tokenizer import CONTEXT
from demo.texts import corpus_words
from demo.tokenizer import write_tokenizer

WEIGHTS: Final = Path(__file__).parent / "weights"

MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
STD: Final = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's pixel statistics."""


@dataclass(frozen=True)
class TowerSizes:
    image_size: int
    patch: int
    width: int
    layers: int
    heads: int
    text_width: int = 64
    text_layers: int = 2
    projection: int = 64


PROPOSAL: Final = TowerSizes(image_size=160, patch=16, width=96, layers=9, heads=3)
"""CaR's affinity is the mean of the last 8 attention maps, so f needs more than 8 blocks."""

CLASSIFIER: Final = PROPOSAL
"""The same size: both start as copies of one trunk."""


def new_model(sizes: TowerSizes, vocabulary: int) -> CLIPModel:
    """Return a CLIPModel with random weights."""
    end = vocabulary - 1

    def tower(width: int, layers: int, heads: int) -> dict[str, Any]:
        return {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "hidden_act": "quick_gelu",
            "projection_dim": sizes.projection,
        }

    text = {"vocab_size": vocabulary, "max_position_embeddings": CONTEXT}
    text |= {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    vision = {"image_size": sizes.image_size, "patch_size": sizes.patch}
    config = CLIPConfig(
        text_config=text | tower(sizes.text_width, sizes.text_layers, 2),
        vision_config=vision | tower(sizes.width, sizes.layers, sizes.heads),
        projection_dim=sizes.projection,
    )
    model = CLIPModel(config)
    # CLIP's own initialisation suits wide towers; small ones learn faster with larger weights.
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "embedding" not in name:  # noqa: PLR2004 (matrices)
            nn.init.normal_(parameter, std=0.6 * parameter.shape[1] ** -0.5)
    return model


def create_folder(folder: Path, sizes: TowerSizes) -> tuple[CLIPModel, CLIPTokenizer]:
    """Write tokenizer and preprocessor to `folder`; return a new model and the tokenizer."""
    vocabulary = write_tokenizer(folder, corpus_words())
    size = sizes.image_size
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": MEAN,
        "image_std": STD,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n", encoding="utf-8")
    return new_model(sizes, vocabulary), CLIPTokenizer.from_pretrained(folder)


@torch.no_grad()
def prime(model: CLIPModel, pixels: Float[Tensor, "n 3 h w"]) -> None:
    """Initialise filters with whitened principal components of real patches, and positions with sines and cosines.

    With random filters the mean colour of a patch is ten times stronger than its edges, and shapes are learned many
    times later.
    """
    stem = model.vision_model.embeddings
    width, patch = stem.embed_dim, stem.patch_size
    patches = nn.functional.unfold(pixels, patch, stride=patch).transpose(1, 2).flatten(0, 1)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    scale = (values[-width:] + 1e-3 * values[-width:].max() / width).rsqrt()
    filters = (vectors[:, -width:] * scale).T
    stem.patch_embedding.weight.copy_(filters.reshape(stem.patch_embedding.weight.shape))
    side = stem.image_size // patch
    stem.position_embedding.weight[1:] = 0.5 * waves(side, width)
    for layer in model.vision_model.encoder.layers:
        _mimic(layer.self_attn)


def _mimic(attention: Any) -> None:  # noqa: ANN401 - transformers publishes no types
    """Mimetic initialisation (Trockman and Kolter 2023): keys resemble queries."""
    width, heads = attention.embed_dim, attention.num_heads
    share, eye = width // heads, torch.eye(attention.embed_dim)
    for start in range(0, width, share):
        left, size, right = torch.linalg.svd(0.7 * torch.randn(width, width) / width**0.5 + 0.7 * eye)
        attention.q_proj.weight[start : start + share] = (left * size.sqrt()).T[:share]
        attention.k_proj.weight[start : start + share] = (right * size.sqrt()[:, None])[:share]
    left, size, right = torch.linalg.svd(0.4 * torch.randn(width, width) / width**0.5 - 0.4 * eye)
    attention.v_proj.weight.copy_(right * size.sqrt()[:, None])
    attention.out_proj.weight.copy_(left * size.sqrt())


def waves(side: int, width: int) -> Float[Tensor, "positions width"]:
    """Return sines and cosines of the row and of the column at width / 4 wavelengths."""
    steps = torch.arange(side, dtype=torch.float32)
    rates = math.pi / side * torch.logspace(0, math.log2(side), width // 4, base=2.0)
    angles = steps[:, None] * rates
    encoded = torch.cat([angles.sin(), angles.cos()], 1)
    rows = encoded[:, None].expand(-1, side, -1)
    return torch.cat([rows, rows.transpose(0, 1)], 2).flatten(0, 1)


def save_model(model: CLIPModel, folder: Path) -> None:
    """Write config.json and model.safetensors in half precision."""
    half = CLIPModel(model.config)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(folder)


def embed(model: CLIPModel, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b tokens c"]:
    """Return the tokens before the first block; positions are interpolated bilinearly from the trained grid."""
    vision = model.vision_model
    stem = vision.embeddings
    patches = stem.patch_embedding(pixels)
    table = stem.position_embedding.weight
    side = round((len(table) - 1) ** 0.5)
    grid = table[1:].T.reshape(1, -1, side, side)
    if grid.shape[2:] != patches.shape[2:]:
        grid = nn.functional.interpolate(grid, patches.shape[2:], mode="bilinear", align_corners=False)
    patches = (patches + grid).flatten(2).transpose(1, 2)
    first = (stem.class_embedding + table[0]).expand(len(pixels), 1, -1)
    return vision.pre_layrnorm(torch.cat([first, patches], 1))  # type: ignore[no-any-return]


def attend(
    layer: Any,  # noqa: ANN401 - transformers publishes no types
    normed: Float[Tensor, "b tokens c"],
    heads: int,
) -> tuple[Float[Tensor, "b tokens c"], Float[Tensor, "b tokens tokens"]]:
    """Return the output of an attention and its map averaged over heads."""
    attention = layer.self_attn
    b, tokens, c = normed.shape
    query, key, value = (
        part(normed).reshape(b, tokens, heads, c // heads).transpose(1, 2)
        for part in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    weights = (query @ key.transpose(2, 3) * (c // heads) ** -0.5).softmax(-1)
    mixed = (weights.to(value.dtype) @ value).transpose(1, 2).reshape(b, tokens, c)
    return attention.out_proj(mixed), weights.float().mean(1)


def block(
    layer: Any,  # noqa: ANN401 - transformers publishes no types
    tokens: Float[Tensor, "b tokens c"],
    heads: int,
) -> tuple[Float[Tensor, "b tokens c"], Float[Tensor, "b tokens tokens"]]:
    """Return the output of a CLIP block and its attention map."""
    mixed, weights = attend(layer, layer.layer_norm1(tokens), heads)
    tokens = tokens + mixed
    return tokens + layer.mlp(layer.layer_norm2(tokens)), weights
