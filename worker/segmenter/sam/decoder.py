"""SAM's mask decoder over many points of one image.

The arithmetic is that of MaskDecoder and TwoWayTransformer (segment_anything) in another order. A point has seven
tokens and thousands of patches, so the cost is in every matrix that all patches pass. Three things avoid them:

- A patch is never projected to be compared with seven tokens. With h heads, q (W k) = (q W) k: the h x 7 rows q W are
  as long as a patch, and products with them cost h x 7 columns instead of a projection's 128 and its own attention. The
  same holds for values of the input and for the output matrix. A key's bias adds the same to all patches' scores and
  cancels in the softmax.
- What the first layer does to the image side before it depends on the point is computed once per image.
- Masks are decoded only for points whose predicted quality is good enough, and only in the rows and columns that the
  image covers. A transposed convolution whose stride is its size is a matrix product per patch: patches stay rows,
  norms run along them, and only the logits are rearranged.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from segment_anything.modeling import MaskDecoder, Sam, TwoWayTransformer
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor, nn
from torch.nn import functional

from worker.segmenter.sam.masks import CELLS

_FIRST_MASK = 2
"""Tokens before those of the multimask output: the IoU token and the single mask's."""


@dataclass(frozen=True)
class ImageEmbedding:
    """An image's embedding as the decoder's transformer reads it; p = grid x grid patches, row by row."""

    keys: Float[Tensor, "p c"]
    """The embedding plus that of "no mask prompt"; its precision is that of all computations on patches."""
    positions: Float[Tensor, "p c"]
    grid: int

    @classmethod
    def from_encoder(cls, network: Sam, embedding: Float[Tensor, "c g g"]) -> "ImageEmbedding":
        prompts = network.prompt_encoder
        keys = (embedding + prompts.no_mask_embed.weight.reshape(-1, 1, 1)).flatten(1).mT
        positions = prompts.get_dense_pe()[0].flatten(1).mT
        return cls(keys.to(embedding.dtype).contiguous(), positions.contiguous(), embedding.shape[-1])


@dataclass(frozen=True)
class DecodedPoints:
    """The transformer's outputs for a batch of points."""

    tokens: Float[Tensor, "k t c"]
    keys: Float[Tensor, "k p c"]
    quality: Float[Tensor, "k o"]
    """Predicted IoU of each output mask, float32."""


class Decoder:
    """The decoder of one image. Tokens are float32; patches have the precision of the image's embedding."""

    def __init__(self, network: Sam, image: ImageEmbedding) -> None:
        self._decoder: MaskDecoder = network.mask_decoder
        self._prompts = network.prompt_encoder
        self._image = image
        transformer: TwoWayTransformer = self._decoder.transformer
        self._layers = [_Layer(layer, image) for layer in transformer.layers]
        self._last = _TokenToImageAttention(transformer.final_attn_token_to_image, image, first=False)
        self._norm = transformer.norm_final_attn

    def tokens(self, points: Float[Tensor, "k 2"]) -> Float[Tensor, "k t c"]:
        """Return the tokens of points x, y in pixels of the resized image.

        Call it once for all points: the package synchronises with the device several times whatever their number.
        """
        labels = torch.ones(len(points), 1, device=points.device)
        sparse, _ = self._prompts(points=(points[:, None], labels), boxes=None, masks=None)
        outputs = torch.cat([self._decoder.iou_token.weight, self._decoder.mask_tokens.weight])
        return torch.cat([outputs.expand(len(points), -1, -1), sparse], 1)

    def decode(self, tokens: Float[Tensor, "k t c"]) -> DecodedPoints:
        queries, keys = tokens, self._image.keys.expand(len(tokens), -1, -1)
        for layer in self._layers:
            queries, keys = layer(queries, keys, tokens)
        queries = self._norm(queries + self._last(queries + tokens, keys))
        return DecodedPoints(queries, keys, self._decoder.iou_prediction_head(queries[:, 0])[:, 1:].float())

    def masks(
        self, decoded: DecodedPoints, good: Bool[Tensor, "k o"], rows: int, columns: int
    ) -> tuple[Float[Tensor, "m low_rows low_columns"], Float[Tensor, " m"]]:
        """Return logits of the `good` outputs over the first rows and columns of patches, and their quality."""
        point, output = good.nonzero(as_tuple=True)
        points, index = torch.unique_consecutive(point, return_inverse=True)
        squares = torch.unflatten(decoded.keys[points], 1, (self._image.grid, -1))
        keys = squares[:, :rows, :columns].flatten(1, 2)
        networks = self._decoder.output_hypernetworks_mlps[1:]
        tokens = decoded.tokens[points, _FIRST_MASK : _FIRST_MASK + len(networks)]
        weights = torch.stack([network(tokens[:, o]) for o, network in enumerate(networks)], 1)
        logits = weights.to(keys.dtype) @ _upscale(self._decoder.output_upscaling, keys).mT
        chosen = logits[index, output].float()
        # (row, column) by (2 x 2 cells) by (2 x 2 cells of those)
        grid = chosen.view(-1, rows, columns, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4, 6)
        return grid.reshape(-1, CELLS * rows, CELLS * columns), decoded.quality[point, output]


class _Layer:
    """TwoWayAttentionBlock; in the first layer all points share the image side."""

    def __init__(self, block: TwoWayAttentionBlock, image: ImageEmbedding) -> None:
        self._block = block
        first = block.skip_first_layer_pe
        self._to_image = _TokenToImageAttention(block.cross_attn_token_to_image, image, first=first)
        self._to_tokens = _ImageToTokenAttention(block.cross_attn_image_to_token, image, first=first)

    def __call__(
        self, queries: Float[Tensor, "k t c"], keys: Float[Tensor, "k p c"], tokens: Float[Tensor, "k t c"]
    ) -> tuple[Float[Tensor, "k t c"], Float[Tensor, "k p c"]]:
        block = self._block
        if block.skip_first_layer_pe:
            queries = block.norm1(block.self_attn(q=queries, k=queries, v=queries))
        else:
            positioned = queries + tokens
            queries = block.norm1(queries + block.self_attn(q=positioned, k=positioned, v=queries))
        queries = block.norm2(queries + self._to_image(queries + tokens, keys))
        queries = block.norm3(queries + block.mlp(queries))
        return queries, block.norm4(self._to_tokens(queries + tokens, queries, keys))


class _TokenToImageAttention:
    """Tokens attend to patches."""

    def __init__(self, attention: Attention, image: ImageEmbedding, *, first: bool) -> None:
        self._attention = attention
        self._scores = _PatchScores(attention.k_proj, attention.num_heads, image, first=first)
        self._values: Tensor | None = None
        """Values of the patches, if all points share them."""
        if first:
            self._values = _heads(attention.v_proj(image.keys.float()).to(image.keys.dtype), attention.num_heads)

    def __call__(self, queries: Float[Tensor, "k t c"], keys: Float[Tensor, "k p c"]) -> Float[Tensor, "k t c"]:
        attention, heads = self._attention, self._attention.num_heads
        weights = self._scores(_heads(attention.q_proj(queries), heads), keys).softmax(-1)
        if self._values is not None:
            attended = torch.einsum("khtp,hpe->khte", weights, self._values).float()
        else:
            value = _by_head(attention.v_proj.weight, heads)
            gathered = torch.unflatten((weights.flatten(1, 2) @ keys).float(), 1, (heads, -1))
            attended = gathered @ value.mT + _by_head(attention.v_proj.bias, heads)[:, None]
        return torch.as_tensor(attention.out_proj(attended.transpose(1, 2).flatten(2)))


class _ImageToTokenAttention:
    """Patches attend to tokens."""

    def __init__(self, attention: Attention, image: ImageEmbedding, *, first: bool) -> None:
        self._attention = attention
        self._scores = _PatchScores(attention.q_proj, attention.num_heads, image, first=first)

    def __call__(
        self, token_keys: Float[Tensor, "k t c"], values: Float[Tensor, "k t c"], patches: Float[Tensor, "k p c"]
    ) -> Float[Tensor, "k p c"]:
        """Return the patches plus what they attend to."""
        attention, heads = self._attention, self._attention.num_heads
        weights = self._scores(_heads(attention.k_proj(token_keys), heads), patches).softmax(2)
        out = _by_head(attention.out_proj.weight.mT, heads)  # h e c
        # The weights of a head sum to 1, and so does its share of the bias.
        projected = _heads(attention.v_proj(values), heads) @ out + attention.out_proj.bias / heads
        return torch.baddbmm(patches, weights.flatten(1, 2).mT, projected.flatten(1, 2).to(patches.dtype))


class _PatchScores:
    """Products of tokens with patches through the matrix that projects patches."""

    def __init__(self, projection: nn.Linear, heads: int, image: ImageEmbedding, *, first: bool) -> None:
        self._weight = _by_head(projection.weight, heads)
        self._first = first
        shared = image.positions + image.keys if first else image.positions
        self._shared = _heads(projection(shared).to(image.keys.dtype), heads)
        """Projection of what all points share: a patch's position, in the first layer all of it."""

    def __call__(self, rows: Float[Tensor, "k h t e"], keys: Float[Tensor, "k p c"]) -> Float[Tensor, "k h t p"]:
        scaled = rows * rows.shape[-1] ** -0.5
        scores = torch.einsum("khte,hpe->khtp", scaled.to(keys.dtype), self._shared)
        if self._first:
            return scores
        folded = (scaled @ self._weight).flatten(1, 2).to(keys.dtype)
        return torch.baddbmm(scores.flatten(1, 2), folded, keys.mT).view_as(scores)


def _heads(projected: Float[Tensor, "*k n e"], heads: int) -> Float[Tensor, "*k h n d"]:
    return torch.unflatten(projected, -1, (heads, -1)).transpose(-3, -2)


def _by_head(weight: Float[Tensor, "n *c"], heads: int) -> Float[Tensor, "h e *c"]:
    return torch.unflatten(weight, 0, (heads, -1))


def _upscale(layers: nn.Sequential, keys: Float[Tensor, "k p c"]) -> Float[Tensor, "k cells d"]:
    """Return the features of each patch's 2 x 2 x 2 x 2 cells, patch by patch: MaskDecoder.output_upscaling."""
    first, norm, gelu, second, last = (cast(Any, layer) for layer in layers)  # torch publishes no types of them
    cells = _double(first, keys)
    normed = functional.layer_norm(cells, cells.shape[-1:], norm.weight, norm.bias, norm.eps)
    return torch.as_tensor(last(_double(second, gelu(normed))).flatten(1, 3))


def _double(convolution: Any, x: Float[Tensor, "*k c"]) -> Float[Tensor, "*k 4 d"]:  # noqa: ANN401
    weight = convolution.weight.permute(0, 2, 3, 1).flatten(1)  # c (2 2 d)
    return torch.unflatten(functional.linear(x, weight.T, convolution.bias.repeat(4)), -1, (4, -1))
