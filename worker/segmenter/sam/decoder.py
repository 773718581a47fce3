"""SAM's mask decoder over many points of one picture.

The arithmetic is MaskDecoder's and TwoWayTransformer's (segment_anything), put together otherwise. Per point there are
seven tokens and thousands of patches, so what costs is every matrix that all patches pass, and three things spare them:

- A patch is never projected for seven tokens to be compared with it. With h heads, q (W k) = (q W) k: the h x 7 rows
  q W are as long as a patch, and products with them cost h x 7 columns in place of a projection's 128 and its own
  attention. The same holds for values on the way in and for the output matrix on the way out. A key's bias adds the
  same to all patches' scores and falls out of the softmax.
- What the first layer does to the image side before it differs from point to point is computed once a picture.
- Masks are decoded only for points of which the quality head expects one that is good enough, and only in the rows and
  columns that the picture covers. A transposed convolution whose step is its size is a matrix product of each patch:
  patches stay rows, norms run along them, and only the logits are brought into their places.
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
class Embedded:
    """One picture's embedding as the decoder's transformer reads it; p = grid x grid patches, row by row."""

    keys: Float[Tensor, "p c"]
    """With the embedding of "no mask prompt" added; in the precision in which patches are to be computed."""
    positions: Float[Tensor, "p c"]
    grid: int

    @classmethod
    def of(cls, network: Sam, embedding: Float[Tensor, "c g g"]) -> "Embedded":
        prompts = network.prompt_encoder
        keys = (embedding + prompts.no_mask_embed.weight.reshape(-1, 1, 1)).flatten(1).mT
        positions = prompts.get_dense_pe()[0].flatten(1).mT
        return cls(keys.to(embedding.dtype).contiguous(), positions.contiguous(), embedding.shape[-1])


@dataclass(frozen=True)
class Answers:
    """What the transformer says to some points."""

    tokens: Float[Tensor, "k t c"]
    keys: Float[Tensor, "k p c"]
    quality: Float[Tensor, "k o"]
    """Predicted IoU of each output, float32."""


class Decoder:
    """One picture's decoder. Tokens are float32 throughout; patches have the precision of the picture's embedding."""

    def __init__(self, network: Sam, picture: Embedded) -> None:
        self._decoder: MaskDecoder = network.mask_decoder
        self._prompts = network.prompt_encoder
        self._picture = picture
        transformer: TwoWayTransformer = self._decoder.transformer
        self._layers = [_Layer(layer, picture) for layer in transformer.layers]
        self._last = _Gather(transformer.final_attn_token_to_image, picture, first=False)
        self._norm = transformer.norm_final_attn

    def tokens(self, points: Float[Tensor, "k 2"]) -> Float[Tensor, "k t c"]:
        """What asks about points x, y in pixels of the resized picture. All at once: the package waits for the device
        several times whatever their number.
        """
        labels = torch.ones(len(points), 1, device=points.device)
        sparse, _ = self._prompts(points=(points[:, None], labels), boxes=None, masks=None)
        own = torch.cat([self._decoder.iou_token.weight, self._decoder.mask_tokens.weight])
        return torch.cat([own.expand(len(points), -1, -1), sparse], 1)

    def ask(self, tokens: Float[Tensor, "k t c"]) -> Answers:
        queries, keys = tokens, self._picture.keys.expand(len(tokens), -1, -1)
        for layer in self._layers:
            queries, keys = layer(queries, keys, tokens)
        queries = self._norm(queries + self._last(queries + tokens, keys))
        return Answers(queries, keys, self._decoder.iou_prediction_head(queries[:, 0])[:, 1:].float())

    def masks(
        self, answers: Answers, good: Bool[Tensor, "k o"], rows: int, columns: int
    ) -> tuple[Float[Tensor, "m low_rows low_columns"], Float[Tensor, " m"]]:
        """Logits of the outputs that are `good`, float32, point by point, over the picture's first rows and columns of
        patches; and their quality.
        """
        point, output = good.nonzero(as_tuple=True)
        some, place = torch.unique_consecutive(point, return_inverse=True)
        squares = torch.unflatten(answers.keys[some], 1, (self._picture.grid, -1))
        keys = squares[:, :rows, :columns].flatten(1, 2)
        networks = self._decoder.output_hypernetworks_mlps[1:]
        tokens = answers.tokens[some, _FIRST_MASK : _FIRST_MASK + len(networks)]
        weights = torch.stack([network(tokens[:, o]) for o, network in enumerate(networks)], 1)
        logits = weights.to(keys.dtype) @ _upscaled(self._decoder.output_upscaling, keys).mT
        chosen = logits[place, output].float()
        # (row, column) by (2 x 2 cells) by (2 x 2 cells of those)
        placed = chosen.view(-1, rows, columns, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4, 6)
        return placed.reshape(-1, CELLS * rows, CELLS * columns), answers.quality[point, output]


class _Layer:
    """TwoWayAttentionBlock; in the first layer the image side is one picture's and serves all points."""

    def __init__(self, block: TwoWayAttentionBlock, picture: Embedded) -> None:
        self._block = block
        self._gather = _Gather(block.cross_attn_token_to_image, picture, first=block.skip_first_layer_pe)
        self._spread = _Spread(block.cross_attn_image_to_token, picture, first=block.skip_first_layer_pe)

    def __call__(
        self, queries: Float[Tensor, "k t c"], keys: Float[Tensor, "k p c"], tokens: Float[Tensor, "k t c"]
    ) -> tuple[Float[Tensor, "k t c"], Float[Tensor, "k p c"]]:
        block = self._block
        if block.skip_first_layer_pe:
            queries = block.norm1(block.self_attn(q=queries, k=queries, v=queries))
        else:
            placed = queries + tokens
            queries = block.norm1(queries + block.self_attn(q=placed, k=placed, v=queries))
        queries = block.norm2(queries + self._gather(queries + tokens, keys))
        queries = block.norm3(queries + block.mlp(queries))
        return queries, block.norm4(self._spread(queries + tokens, queries, keys))


class _Gather:
    """Tokens attend to patches."""

    def __init__(self, attention: Attention, picture: Embedded, *, first: bool) -> None:
        self._attention = attention
        self._scores = _Scores(attention.k_proj, attention.num_heads, picture, first=first)
        self._held: Tensor | None = None
        """Values of the patches, where all points share them."""
        if first:
            self._held = _heads(attention.v_proj(picture.keys.float()).to(picture.keys.dtype), attention.num_heads)

    def __call__(self, asking: Float[Tensor, "k t c"], keys: Float[Tensor, "k p c"]) -> Float[Tensor, "k t c"]:
        attention, heads = self._attention, self._attention.num_heads
        weight = self._scores(_heads(attention.q_proj(asking), heads), keys).softmax(-1)
        if self._held is not None:
            found = torch.einsum("khtp,hpe->khte", weight, self._held).float()
        else:
            value = _by_head(attention.v_proj.weight, heads)
            gathered = torch.unflatten((weight.flatten(1, 2) @ keys).float(), 1, (heads, -1))
            found = gathered @ value.mT + _by_head(attention.v_proj.bias, heads)[:, None]
        return torch.as_tensor(attention.out_proj(found.transpose(1, 2).flatten(2)))


class _Spread:
    """Patches attend to tokens."""

    def __init__(self, attention: Attention, picture: Embedded, *, first: bool) -> None:
        self._attention = attention
        self._scores = _Scores(attention.q_proj, attention.num_heads, picture, first=first)

    def __call__(
        self, asked: Float[Tensor, "k t c"], giving: Float[Tensor, "k t c"], keys: Float[Tensor, "k p c"]
    ) -> Float[Tensor, "k p c"]:
        """The patches with what they gather from the tokens added."""
        attention, heads = self._attention, self._attention.num_heads
        weight = self._scores(_heads(attention.k_proj(asked), heads), keys).softmax(2)
        out = _by_head(attention.out_proj.weight.mT, heads)  # h e c
        # The weights of a head sum to 1, and so does its share of the bias.
        given = _heads(attention.v_proj(giving), heads) @ out + attention.out_proj.bias / heads
        return torch.baddbmm(keys, weight.flatten(1, 2).mT, given.flatten(1, 2).to(keys.dtype))


class _Scores:
    """Products of tokens with patches through the matrix that projects patches."""

    def __init__(self, projection: nn.Linear, heads: int, picture: Embedded, *, first: bool) -> None:
        self._weight = _by_head(projection.weight, heads)
        self._first = first
        seen = picture.positions + picture.keys if first else picture.positions
        self._seen = _heads(projection(seen).to(picture.keys.dtype), heads)
        """Of each patch that all points share: its position, in the first layer all of it."""

    def __call__(self, rows: Float[Tensor, "k h t e"], keys: Float[Tensor, "k p c"]) -> Float[Tensor, "k h t p"]:
        scaled = rows * rows.shape[-1] ** -0.5
        shared = torch.einsum("khte,hpe->khtp", scaled.to(keys.dtype), self._seen)
        if self._first:
            return shared
        folded = (scaled @ self._weight).flatten(1, 2).to(keys.dtype)
        return torch.baddbmm(shared.flatten(1, 2), folded, keys.mT).view_as(shared)


def _heads(projected: Float[Tensor, "*k n e"], heads: int) -> Float[Tensor, "*k h n d"]:
    return torch.unflatten(projected, -1, (heads, -1)).transpose(-3, -2)


def _by_head(weight: Float[Tensor, "n *c"], heads: int) -> Float[Tensor, "h e *c"]:
    return torch.unflatten(weight, 0, (heads, -1))


def _upscaled(layers: nn.Sequential, keys: Float[Tensor, "k p c"]) -> Float[Tensor, "k cells d"]:
    """The features of each patch's 2 x 2 x 2 x 2 cells, patch by patch: MaskDecoder.output_upscaling."""
    first, norm, gelu, second, last = (cast(Any, layer) for layer in layers)  # torch publishes no types of them
    cells = _doubled(first, keys)
    normed = functional.layer_norm(cells, cells.shape[-1:], norm.weight, norm.bias, norm.eps)
    return torch.as_tensor(last(_doubled(second, gelu(normed))).flatten(1, 3))


def _doubled(convolution: Any, x: Float[Tensor, "*k c"]) -> Float[Tensor, "*k 4 d"]:  # noqa: ANN401
    weight = convolution.weight.permute(0, 2, 3, 1).flatten(1)  # c (2 2 d)
    return torch.unflatten(functional.linear(x, weight.T, convolution.bias.repeat(4)), -1, (4, -1))
