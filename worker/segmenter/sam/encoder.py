"""SAM's image encoder, ImageEncoderViT of segment_anything, with the same weights and less of everything else.

- Scores are never held for all heads and patches at once. On CUDA relative positions are made a part of queries and
  keys: (q, rows, columns) x (k, one-hot row, one-hot column) = q k + what row and column add, and a fused kernel does
  the rest. On a CPU plain products are quicker than its fused kernel, in pieces that stay in the cache.
- A windowed block ends in half-filled windows. The package brings their missing patches through all matrices; here
  they get the projection of zero, which is its bias, and nothing is computed of them that nobody reads.
- On a CPU windowed blocks go strip by strip: memory stays below what the allocator gives back to the system, and
  getting it again costs as much as computing with it.
"""

import torch
from jaxtyping import Float
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, Block
from torch import Tensor
from torch.nn import functional

_SCORES_AT_ONCE = 1 << 20
"""Of a CPU's pieces: 4 MiB of float32."""

_FUSED_STEP = 8
"""Fused kernels want heads that are a multiple of it wide."""


def encode(encoder: ImageEncoderViT, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b c g g"]:
    """What `encoder(pixels)` gives."""
    x = encoder.patch_embed(pixels)
    if encoder.pos_embed is not None:
        x = x + encoder.pos_embed
    for block in encoder.blocks:
        x = _whole(block, x) if block.window_size == 0 else _windowed(block, x)
    return torch.as_tensor(encoder.neck(x.permute(0, 3, 1, 2)))


def _whole(block: Block, x: Float[Tensor, "b g g c"]) -> Float[Tensor, "b g g c"]:
    """Every patch attends to every patch."""
    grid = x.shape[1]
    q, k, v = _heads(block.attn.qkv(block.norm1(x)).flatten(1, 2), block.attn.num_heads)
    found = _attend(block.attn, q, k, v, grid, fused=x.is_cuda)
    x = x + block.attn.proj(torch.unflatten(found.transpose(1, 2).flatten(2), 1, (grid, grid)))
    return torch.cat([_own(block, strip) for strip in torch.split(x, _strip(x, grid // 4), 1)], 1)


def _windowed(block: Block, x: Float[Tensor, "b g g c"]) -> Float[Tensor, "b g g c"]:
    """Patches attend to those of their window."""
    strips = []
    for strip in torch.split(x, _strip(x, block.window_size), 1):
        near = strip + _within_windows(block.attn, block.norm1(strip), block.window_size)
        strips.append(_own(block, near))
    return torch.cat(strips, 1)


def _own(block: Block, x: Float[Tensor, "b r g c"]) -> Float[Tensor, "b r g c"]:
    """What each patch does by itself."""
    return torch.as_tensor(x + block.mlp(block.norm2(x)))


def _strip(x: Float[Tensor, "b g g c"], rows: int) -> int:
    """So many rows of patches go through a block together."""
    return x.shape[1] if x.is_cuda else max(1, rows)


def _within_windows(attention: Attention, normed: Float[Tensor, "b r g c"], side: int) -> Float[Tensor, "b r g c"]:
    b, rows, columns, _ = normed.shape
    down, across = -(-rows // side), -(-columns // side)
    filled = attention.qkv.bias.repeat(b, down * side, across * side, 1)
    filled[:, :rows, :columns] = attention.qkv(normed)
    windows = filled.view(b, down, side, across, side, -1).transpose(2, 3).reshape(b * down * across, side * side, -1)
    q, k, v = _heads(windows, attention.num_heads)
    found = _attend(attention, q, k, v, side, fused=normed.is_cuda)
    placed = found.view(b, down, across, attention.num_heads, side, side, -1).permute(0, 1, 4, 2, 5, 3, 6)
    whole = placed.reshape(b, down * side, across * side, -1)[:, :rows, :columns]
    return torch.as_tensor(attention.proj(whole))


def _heads(qkv: Float[Tensor, "n t _"], heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, n x heads x t x e."""
    q, k, v = torch.unflatten(qkv, 2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return q, k, v


def _attend(
    attention: Attention,
    q: Float[Tensor, "n h t e"],
    k: Float[Tensor, "n h t e"],
    v: Float[Tensor, "n h t e"],
    side: int,
    *,
    fused: bool,
) -> Float[Tensor, "n h t e"]:
    """What the patches of squares of so many patches a side gather from one another."""
    if not attention.use_rel_pos:
        return functional.scaled_dot_product_attention(q, k, v)
    asking = torch.unflatten(q, 2, (side, side))
    by_row = torch.einsum("nhrce,rke->nhrck", asking, _table(attention.rel_pos_h, side)).flatten(2, 3)
    by_column = torch.einsum("nhrce,cke->nhrck", asking, _table(attention.rel_pos_w, side)).flatten(2, 3)
    return (_fused if fused else _in_pieces)(q, k, v, by_row, by_column)


def _table(positions: Float[Tensor, "distances e"], side: int) -> Float[Tensor, "side side e"]:
    """The embedding of the distance of each place from each."""
    places = torch.arange(side, device=positions.device)
    return positions[places[:, None] - places + side - 1]


def _fused(
    q: Float[Tensor, "n h t e"],
    k: Float[Tensor, "n h t e"],
    v: Float[Tensor, "n h t e"],
    by_row: Float[Tensor, "n h t side"],
    by_column: Float[Tensor, "n h t side"],
) -> Float[Tensor, "n h t e"]:
    n, heads, tokens, width = q.shape
    side = by_row.shape[-1]
    own = torch.eye(side, dtype=q.dtype, device=q.device)
    where = torch.cat([own.repeat_interleave(side, 0), own.repeat(side, 1)], 1).expand(n, heads, tokens, -1)
    scale = width**-0.5  # of q and k alone
    asking = torch.cat([q * scale, by_row, by_column], -1)
    padding = (0, -asking.shape[-1] % _FUSED_STEP)
    asking, keys = functional.pad(asking, padding), functional.pad(torch.cat([k, where], -1), padding)
    values = functional.pad(v, (0, asking.shape[-1] - width))
    return functional.scaled_dot_product_attention(asking, keys, values, scale=1.0)[..., :width]


def _in_pieces(
    q: Float[Tensor, "n h t e"],
    k: Float[Tensor, "n h t e"],
    v: Float[Tensor, "n h t e"],
    by_row: Float[Tensor, "n h t side"],
    by_column: Float[Tensor, "n h t side"],
) -> Float[Tensor, "n h t e"]:
    tokens, width, side = q.shape[2], q.shape[3], by_row.shape[-1]
    found = torch.empty_like(q, memory_format=torch.contiguous_format)
    flat = [x.flatten(0, 1) for x in (q * width**-0.5, k, v, by_row, by_column, found)]
    maps, some = max(1, _SCORES_AT_ONCE // tokens**2), max(1, _SCORES_AT_ONCE // tokens)
    for few in zip(*(torch.split(x, maps) for x in flat), strict=True):
        keys, values = few[1].mT, few[2]
        parts = (torch.split(few[i], some, 1) for i in (0, 3, 4, 5))
        for asking, row, column, out in zip(*parts, strict=True):
            scores = torch.bmm(asking, keys)
            placed = torch.unflatten(scores, 2, (side, side))
            placed += row[..., None]
            placed += column[..., None, :]
            torch.bmm(scores.softmax(-1), values, out=out)
    return found
