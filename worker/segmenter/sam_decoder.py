"""SAM's mask decoder over many points of one picture.

The arithmetic is MaskDecoder's and TwoWayTransformer's (segment_anything), taken apart in two places: what the first
layer does to the image side is the same for every point and is done once, and masks are decoded only for points of
which the quality head expects one that is good enough.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from segment_anything.modeling import MaskDecoder, Sam, TwoWayTransformer
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor

_FIRST_MASK = 2
"""Tokens before those of the multimask output: the IoU token and the single mask's."""


@dataclass(frozen=True)
class Embedded:
    """One picture's embedding as the decoder's transformer reads it; p = grid x grid patches, row by row."""

    keys: Float[Tensor, "1 p c"]
    """With the embedding of "no mask prompt" added."""
    positions: Float[Tensor, "1 p c"]
    grid: int

    @classmethod
    def of(cls, network: Sam, embedding: Float[Tensor, "1 c g g"]) -> "Embedded":
        prompts = network.prompt_encoder
        keys = embedding + prompts.no_mask_embed.weight.reshape(1, -1, 1, 1)
        positions = prompts.get_dense_pe()
        return cls(keys.flatten(2).mT, positions.flatten(2).mT, embedding.shape[-1])


def decode(
    network: Sam, picture: Embedded, points: Float[Tensor, "k 2"], *, above: float
) -> tuple[Float[Tensor, "m low low"], Float[Tensor, " m"]]:
    """Logits and predicted IoU of the masks whose predicted IoU is above a bound (0: of all), point by point, at four
    cells to a patch's side. Points are x, y in pixels of the resized picture.
    """
    decoder = network.mask_decoder
    labels = torch.ones(len(points), 1, device=points.device)
    sparse, _ = network.prompt_encoder(points=(points[:, None], labels), boxes=None, masks=None)
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    queries, keys = _two_way(decoder.transformer, picture, torch.cat([own.expand(len(points), -1, -1), sparse], 1))
    quality = decoder.iou_prediction_head(queries[:, 0])[:, 1:]
    good = quality > above if above > 0 else torch.ones_like(quality, dtype=torch.bool)
    return _masks(decoder, queries, keys, picture.grid, good), quality[good]


def _masks(
    decoder: MaskDecoder,
    queries: Float[Tensor, "k t c"],
    keys: Float[Tensor, "k p c"],
    grid: int,
    good: Bool[Tensor, "k o"],
) -> Float[Tensor, "m low low"]:
    some = good.any(1)
    upscaled = decoder.output_upscaling(torch.unflatten(keys[some].mT, 2, (grid, grid))).flatten(2)
    networks = decoder.output_hypernetworks_mlps[1:]
    weights = [network(queries[some, _FIRST_MASK + o]) for o, network in enumerate(networks)]
    point, output = good[some].nonzero(as_tuple=True)
    logits = torch.stack(weights, 1) @ upscaled
    return torch.unflatten(logits[point, output], 1, (4 * grid, 4 * grid))


def _two_way(
    transformer: TwoWayTransformer, picture: Embedded, tokens: Float[Tensor, "k t c"]
) -> tuple[Float[Tensor, "k t c"], Float[Tensor, "k p c"]]:
    queries, keys = tokens, picture.keys
    for layer in transformer.layers:
        queries, keys = _layer(layer, queries, keys, tokens, picture.positions)
    attended = _attend(transformer.final_attn_token_to_image, queries + tokens, keys + picture.positions, keys)
    return transformer.norm_final_attn(queries + attended), keys


def _layer(
    layer: TwoWayAttentionBlock,
    queries: Float[Tensor, "k t c"],
    keys: Float[Tensor, "_ p c"],
    tokens: Float[Tensor, "k t c"],
    positions: Float[Tensor, "1 p c"],
) -> tuple[Float[Tensor, "k t c"], Float[Tensor, "k p c"]]:
    """TwoWayAttentionBlock; in the first layer `keys` is one picture's and serves all points."""
    if layer.skip_first_layer_pe:
        queries = layer.norm1(_attend(layer.self_attn, queries, queries, queries))
    else:
        placed = queries + tokens
        queries = layer.norm1(queries + _attend(layer.self_attn, placed, placed, queries))
    shown = keys + positions
    queries = layer.norm2(queries + _attend(layer.cross_attn_token_to_image, queries + tokens, shown, keys))
    queries = layer.norm3(queries + layer.mlp(queries))
    return queries, layer.norm4(keys + _attend(layer.cross_attn_image_to_token, shown, queries + tokens, queries))


def _attend(
    attention: Attention, query: Float[Tensor, "a q c"], key: Float[Tensor, "b s c"], value: Float[Tensor, "b s c"]
) -> Float[Tensor, "_ q c"]:
    """Attention of the package; where one side holds a single picture it is projected once and serves all."""
    heads = attention.num_heads
    q, k, v = (
        project(side).unflatten(2, (heads, -1)).transpose(1, 2)
        for project, side in ((attention.q_proj, query), (attention.k_proj, key), (attention.v_proj, value))
    )
    scaled = q * q.shape[-1] ** -0.5
    # Seven tokens on one side: plain products, with the softmax across long rows, beat a CPU's fused kernel.
    patches_ask = q.shape[2] > k.shape[2]
    weight = (k @ scaled.mT).softmax(-2).mT if patches_ask else (scaled @ k.mT).softmax(-1)
    found = weight @ v
    return torch.as_tensor(attention.out_proj(found.transpose(1, 2).flatten(2)))
