"""SAM's image encoder: ImageEncoderViT of segment_anything with the same weights, less memory and less work.

- Scores never exist for all heads and patches at once. On CUDA relative positions become a part of queries and keys:
  (q, rows, columns) x (k, one-hot row, one-hot column) = q k + the terms of row and column, which a fused kernel
  computes. On a CPU plain products, in batches that stay in the cache, are faster than its fused kernel.
- The windows of a windowed block may exceed the image. The package runs the missing patches through all matrices; here
  they get the projection of zero, which is its bias, and nothing unused is computed for them.
- On a CPU windowed blocks run strip by strip, so the allocator reuses memory: requesting it from the system again costs
  as much as the computation.
"""

import torch
from jaxtyping import Float
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, Block
from torch import Tensor
from torch.nn import functional

_MAX_SCORES = 1 << 20
"""Scores of a batch on a CPU: 4 MiB of float32."""

_FUSED_STEP = 8
"""Fused kernels need heads whose width is a multiple of it."""

_Heads = Float[Tensor, "n h t e"]
_Bias = Float[Tensor, "n h t side"]


def encode(encoder: ImageEncoderViT, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b c g g"]:
    """Return `encoder(pixels)`."""
    x = encoder.patch_embed(pixels)
    if encoder.pos_embed is not None:
        x = x + encoder.pos_embed
    for block in encoder.blocks:
        x = _global(block, x) if block.window_size == 0 else _windowed(block, x)
    return torch.as_tensor(encoder.neck(x.permute(0, 3, 1, 2)))


def _global(block: Block, x: Float[Tensor, "b g g c"]) -> Float[Tensor, "b g g c"]:
    """Run a block in which every patch attends to every patch."""
    grid = x.shape[1]
    q, k, v = _heads(block.attn.qkv(block.norm1(x)).flatten(1, 2), block.attn.num_heads)
    attended = _attend(block.attn, q, k, v, grid, fused=x.is_cuda)
    x = x + block.attn.proj(torch.unflatten(attended.transpose(1, 2).flatten(2), 1, (grid, grid)))
    return torch.cat([_mlp(block, strip) for strip in torch.split(x, _strip_rows(x, grid // 4), 1)], 1)


def _windowed(block: Block, x: Float[Tensor, "b g g c"]) -> Float[Tensor, "b g g c"]:
    """Run a block in which patches attend to those of their window."""
    strips = []
    for strip in torch.split(x, _strip_rows(x, block.window_size), 1):
        attended = strip + _attend_in_windows(block.attn, block.norm1(strip), block.window_size)
        strips.append(_mlp(block, attended))
    return torch.cat(strips, 1)


def _mlp(block: Block, x: Float[Tensor, "b r g c"]) -> Float[Tensor, "b r g c"]:
    return torch.as_tensor(x + block.mlp(block.norm2(x)))


def _strip_rows(x: Float[Tensor, "b g g c"], rows: int) -> int:
    """Return how many rows of patches go through a block together: all on CUDA, else at most `rows`."""
    return x.shape[1] if x.is_cuda else max(1, rows)


def _attend_in_windows(attention: Attention, normed: Float[Tensor, "b r g c"], side: int) -> Float[Tensor, "b r g c"]:
    b, rows, columns, _ = normed.shape
    down, across = -(-rows // side), -(-columns // side)
    padded = attention.qkv.bias.repeat(b, down * side, across * side, 1)
    padded[:, :rows, :columns] = attention.qkv(normed)
    windows = padded.view(b, down, side, across, side, -1).transpose(2, 3).reshape(b * down * across, side * side, -1)
    q, k, v = _heads(windows, attention.num_heads)
    attended = _attend(attention, q, k, v, side, fused=normed.is_cuda)
    grid = attended.view(b, down, across, attention.num_heads, side, side, -1).permute(0, 1, 4, 2, 5, 3, 6)
    cropped = grid.reshape(b, down * side, across * side, -1)[:, :rows, :columns]
    return torch.as_tensor(attention.proj(cropped))


def _heads(qkv: Float[Tensor, "n t _"], heads: int) -> tuple[_Heads, _Heads, _Heads]:
    """Return queries, keys and values."""
    q, k, v = torch.unflatten(qkv, 2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return q, k, v


def _attend(attention: Attention, q: _Heads, k: _Heads, v: _Heads, side: int, *, fused: bool) -> _Heads:
    """Let the patches of squares of `side` x `side` patches attend to one another."""
    if not attention.use_rel_pos:
        return functional.scaled_dot_product_attention(q, k, v)
    grid = torch.unflatten(q, 2, (side, side))
    by_row = torch.einsum("nhrce,rke->nhrck", grid, _relative_positions(attention.rel_pos_h, side)).flatten(2, 3)
    by_column = torch.einsum("nhrce,cke->nhrck", grid, _relative_positions(attention.rel_pos_w, side)).flatten(2, 3)
    return (_attend_fused if fused else _attend_in_batches)(q, k, v, by_row, by_column)


def _relative_positions(positions: Float[Tensor, "distances e"], side: int) -> Float[Tensor, "side side e"]:
    """Return the embedding of the distance of each pair of rows (columns)."""
    index = torch.arange(side, device=positions.device)
    return positions[index[:, None] - index + side - 1]


def _attend_fused(q: _Heads, k: _Heads, v: _Heads, by_row: _Bias, by_column: _Bias) -> _Heads:
    n, heads, tokens, width = q.shape
    side = by_row.shape[-1]
    one_hot = torch.eye(side, dtype=q.dtype, device=q.device)
    position = torch.cat([one_hot.repeat_interleave(side, 0), one_hot.repeat(side, 1)], 1).expand(n, heads, tokens, -1)
    scale = width**-0.5  # of q and k alone
    queries = torch.cat([q * scale, by_row, by_column], -1)
    padding = (0, -queries.shape[-1] % _FUSED_STEP)
    queries, keys = functional.pad(queries, padding), functional.pad(torch.cat([k, position], -1), padding)
    values = functional.pad(v, (0, queries.shape[-1] - width))
    return functional.scaled_dot_product_attention(queries, keys, values, scale=1.0)[..., :width]


def _attend_in_batches(q: _Heads, k: _Heads, v: _Heads, by_row: _Bias, by_column: _Bias) -> _Heads:
    tokens, width, side = q.shape[2], q.shape[3], by_row.shape[-1]
    attended = torch.empty_like(q, memory_format=torch.contiguous_format)
    flat = [x.flatten(0, 1) for x in (q * width**-0.5, k, v, by_row, by_column, attended)]
    maps, rows = max(1, _MAX_SCORES // tokens**2), max(1, _MAX_SCORES // tokens)
    for batch in zip(*(torch.split(x, maps) for x in flat), strict=True):
        keys, values = batch[1].mT, batch[2]
        parts = (torch.split(batch[i], rows, 1) for i in (0, 3, 4, 5))
        for queries, row, column, out in zip(*parts, strict=True):
            scores = torch.bmm(queries, keys)
            grid = torch.unflatten(scores, 2, (side, side))
            grid += row[..., None]
            grid += column[..., None, :]
            torch.bmm(scores.softmax(-1), values, out=out)
    return attended
