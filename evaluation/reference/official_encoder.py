"""CLIP's image tower as the official code's wrapper runs it: a baseline that does not change with our encoder."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from worker.segmenter.clip.encoder import Encoder

_QUICK_GELU = 1.702


class OfficialEncoder(Encoder):
    """An Encoder with unfused blocks, each of which computes its attention map."""

    def block(
        self, tokens: Float[Tensor, "b t c"], normed: Float[Tensor, "b t c"], index: int, *, attention: bool
    ) -> tuple[Float[Tensor, "b t c"], Float[Tensor, "b t t"] | None]:
        """See Encoder.block."""
        layer = self._layer(index)
        attended, weights = _attend(layer.self_attn, normed)
        tokens = tokens + attended
        hidden = layer.mlp.fc1(layer.layer_norm2(tokens))
        tokens = tokens + layer.mlp.fc2(hidden * torch.sigmoid(_QUICK_GELU * hidden))
        return tokens, weights if attention else None


def _attend(layer: Any, normed: Float[Tensor, "b t c"]) -> tuple[Float[Tensor, "b t c"], Float[Tensor, "b t t"]]:  # noqa: ANN401
    b, t, c = normed.shape

    def heads(projection: Any) -> Tensor:  # noqa: ANN401
        return projection(normed).view(b, t, layer.num_heads, -1).transpose(1, 2)  # type: ignore[no-any-return]

    q, k, v = heads(layer.q_proj), heads(layer.k_proj), heads(layer.v_proj)
    weights = (q @ k.transpose(-1, -2) * layer.scale).softmax(-1)
    out = (weights @ v).transpose(1, 2).reshape(b, t, c)
    return layer.out_proj(out), weights.detach().float().mean(1)
