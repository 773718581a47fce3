"""The last block of f with its backward pass written out, for the one gradient that GradCAM needs.

GradCAM needs g = mean over patches of d<z, t>/dA of a text t: one vector, not a gradient per token. Automatic
differentiation cannot use what follows from that:

- z reads the mean of ln_post over patches, so every patch gets the same cotangent, and the backward pass through
  ln_post and the MLP's second matrix splits into a part of the text and a part of the image that all texts share.
- Rows of an attention map sum to 1, so the sums over tokens of the gradients to queries, keys and values need one
  product with the attention map, and one vector goes through each of the three projections.

A text costs 6 products of (tokens x width) by (width x width) instead of 17. A model in float32 is computed here in
float64: CAMs are differences of close numbers, and in float32 they would be twice as far from the exact ones as plain
automatic differentiation is. Models in half precision, and images of more than 4,096 patches, whose attention maps
would not fit into memory, are computed in float32.
"""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from worker.segmenter.clip.network import QUICK_GELU, ClipNetwork, Layer, Weights

_TEXT_BATCH_SIZE = 16
_MOST_EXACT_TOKENS = 4_097


@dataclass(frozen=True)
class Norm:
    """A layer norm applied to rows, with what its backward pass needs."""

    rows: Float[Tensor, "t c"]
    """The input, centred and scaled to deviation 1."""
    inverse: Float[Tensor, "t 1"]
    """1 / deviation."""
    weight: Float[Tensor, " c"]
    bias: Float[Tensor, " c"]

    @classmethod
    def from_layer(cls, layer: nn.LayerNorm, x: Float[Tensor, "t c"]) -> "Norm":
        centred = x - x.mean(-1, keepdim=True)
        inverse = (centred.square().mean(-1, keepdim=True) + layer.eps).rsqrt()
        return cls(centred * inverse, inverse, layer.weight, layer.bias.to(x.dtype))

    @property
    def output(self) -> Float[Tensor, "t c"]:
        return torch.addcmul(self.bias, self.rows, self.weight)

    def backward(self, cotangent: Float[Tensor, "t c"]) -> Float[Tensor, "t c"]:
        scaled = cotangent * self.weight
        along = (scaled * self.rows).mean(-1, keepdim=True)
        return (scaled - scaled.mean(-1, keepdim=True) - self.rows * along) * self.inverse


@dataclass(frozen=True)
class FinalLayers:
    """The last block, ln_post and the projection of a CLIP, in one precision."""

    block: Layer
    post_layernorm: nn.LayerNorm
    projection: Weights

    @classmethod
    def copy_from(cls, network: ClipNetwork, dtype: torch.dtype) -> "FinalLayers":
        vision = network.vision_model
        layers = copy.deepcopy((vision.encoder[-1], vision.post_layernorm, network.visual_projection))
        return cls(layers[0].to(dtype), layers[1].to(dtype), layers[2].to(dtype))


def exact_dtype(tokens: Float[Tensor, "t c"]) -> torch.dtype:
    """Return the precision in which the last block of an image is computed."""
    is_exact = tokens.dtype in (torch.float32, torch.float64) and len(tokens) <= _MOST_EXACT_TOKENS
    return torch.float64 if is_exact else torch.float32


class LastBlock:
    """The last block applied to one image: z, the attention map, and g of any texts."""

    def __init__(self, final: FinalLayers, tokens: Float[Tensor, "t c"]) -> None:
        """`tokens` enter the block, class token first, in the precision of `final`."""
        x = tokens
        layer = final.block
        self._layer, self._dtype = layer, x.dtype
        self.a = Norm.from_layer(layer.layer_norm1, x).output
        """ln_1 of the tokens."""
        self._attend()
        y = x + self._linear(layer.self_attn.out_proj, self._o.transpose(0, 1).flatten(1))
        self._ln_2 = Norm.from_layer(layer.layer_norm2, y)
        hidden = self._linear(layer.mlp.fc1, self._ln_2.output)
        passed = torch.sigmoid(QUICK_GELU * hidden)
        out = y + self._linear(layer.mlp.fc2, hidden * passed)
        self._slope = passed * (1 + QUICK_GELU * hidden * (1 - passed))
        self._slope[0] = 0  # the class token is not read
        self._ln_post = Norm.from_layer(final.post_layernorm, out)
        self._projection = final.projection.weight
        mean = self._ln_post.output[1:].mean(0) @ self._projection.T
        self._length = mean.norm()
        self.z = mean / self._length
        """Embedding of the mean patch, of length 1."""
        # The part of the backward pass through the MLP that all texts share.
        along = (self._ln_post.rows @ layer.mlp.fc2.weight) * self._slope
        self._shared = along @ layer.mlp.fc1.weight

    def _attend(self) -> None:
        attention = self._layer.self_attn

        def heads(projection: Weights) -> Float[Tensor, "h t e"]:
            return self._linear(projection, self.a).view(len(self.a), attention.num_heads, -1).transpose(0, 1)

        self._q, self._k, self._v = heads(attention.q_proj), heads(attention.k_proj), heads(attention.v_proj)
        self._p: Tensor = (self._q * attention.scale @ self._k.transpose(-1, -2)).softmax(-1)
        self._o = self._p @ self._v
        self._pk = self._p @ self._k

    @property
    def attention(self) -> Float[Tensor, "t t"]:
        """The attention map averaged over heads."""
        return self._p.mean(0)

    def gradients(self, texts: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Return g of each text: the mean over patches of d<z, t>/dA."""
        texts = texts.to(self._dtype)
        patches = len(self.a) - 1
        to_mean = (texts - (texts @ self.z)[:, None] * self.z) / (self._length * patches)
        batches = torch.split(to_mean @ self._projection, _TEXT_BATCH_SIZE)
        return torch.cat(
            [self._through_attention(torch.stack([self._through_mlp(row) for row in batch])) for batch in batches]
        )

    def _through_mlp(self, cotangent: Float[Tensor, " c"]) -> Float[Tensor, "t c"]:
        """Return the gradient to the attention's output from the cotangent of ln_post's output at every patch."""
        mlp = self._layer.mlp
        scaled = cotangent * self._ln_post.weight
        centred = scaled - scaled.mean()
        along = (self._ln_post.rows @ scaled / len(scaled))[:, None]
        inverse = self._ln_post.inverse.clone()
        inverse[0] = 0
        to_out = (centred - self._ln_post.rows * along) * inverse
        own = (centred @ mlp.fc2.weight)[:, None] * mlp.fc1.weight
        to_mlp = (self._slope @ own - self._shared * along) * inverse
        return to_out + self._ln_2.backward(to_mlp)

    def _through_attention(self, cotangents: Float[Tensor, "n t c"]) -> Float[Tensor, "n c"]:
        attention, (n, t, _) = self._layer.self_attn, cotangents.shape
        to_o = cotangents @ attention.out_proj.weight
        to_o = to_o.view(n, t, attention.num_heads, -1).permute(2, 1, 0, 3).contiguous()  # h t n e
        drift = (to_o * self._o[:, :, None]).sum(-1)  # h t n: sum over keys of p times the gradient to p
        first = self._p[:, :, 0]
        to_v = torch.einsum("ht,htne->hne", 1 - first, to_o)
        to_first = first[..., None] * ((to_o * self._v[:, :1, None]).sum(-1) - drift)
        to_k = -torch.einsum("htn,hte->hne", to_first, self._q) * attention.scale
        summed = (self._p[:, 1:].transpose(-1, -2) @ to_o[:, 1:].flatten(2)).view(len(first), t, n, -1)
        columns = summed.mul_(self._v[:, :, None]).sum(-1)
        # The drift's part is the sum over q of drift(q) (P k)(q), so it needs no further product with the map.
        to_q = torch.einsum("htn,hte->hne", columns, self._k)
        to_q = (to_q - torch.einsum("htn,hte->hne", drift[:, 1:], self._pk[:, 1:])) * attention.scale
        total = torch.zeros_like(cotangents[:, 0])
        for part, projection in ((to_q, attention.q_proj), (to_k, attention.k_proj), (to_v, attention.v_proj)):
            total = total + part.transpose(0, 1).flatten(1) @ projection.weight
        return total / (t - 1)

    def _linear(self, layer: Weights, x: Float[Tensor, "t i"]) -> Float[Tensor, "t o"]:
        return functional.linear(x, layer.weight, None if layer.bias is None else layer.bias.to(self._dtype))
