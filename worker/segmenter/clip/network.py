"""CLIP's two towers as torch modules, with the tensor names of transformers' CLIPModel.

transformers itself is not imported: that takes longer than segmenting an image.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

QUICK_GELU = 1.702
"""Slope of CLIP's quick GELU, x sigmoid(1.702 x)."""
ACTIVATIONS = ("quick_gelu", "gelu")
_TEXT_DEFAULTS = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
_VISION_DEFAULTS = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}


@dataclass(frozen=True)
class TowerSizes:
    """The sizes of one tower."""

    width: int
    mlp: int
    depth: int
    heads: int
    activation: str
    epsilon: float

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "TowerSizes":
        """`config` is a tower's part of config.json, complete."""
        return cls(
            width=int(config["hidden_size"]),
            mlp=int(config["intermediate_size"]),
            depth=int(config["num_hidden_layers"]),
            heads=int(config["num_attention_heads"]),
            activation=str(config.get("hidden_act", "quick_gelu")),
            epsilon=float(config.get("layer_norm_eps", 1e-5)),
        )


@dataclass(frozen=True)
class ClipSizes:
    """The sizes of a CLIP."""

    vision: TowerSizes
    text: TowerSizes
    patch: int
    image_size: int
    vocabulary: int
    context: int
    projection: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "ClipSizes":
        """Return the sizes in a config.json of transformers, whose defaults apply to what it leaves out.

        Raises:
            ValueError, TypeError: a size is no number, or the activation is unknown.

        """
        # Old files say some sizes in `…_config_dict` alone, which transformers prefers too.
        text = _TEXT_DEFAULTS | (config.get("text_config") or {}) | (config.get("text_config_dict") or {})
        vision = _VISION_DEFAULTS | (config.get("vision_config") or {}) | (config.get("vision_config_dict") or {})
        sizes = cls(
            vision=TowerSizes.from_config(vision),
            text=TowerSizes.from_config(text),
            patch=int(vision.get("patch_size", 32)),
            image_size=int(vision.get("image_size", 224)),
            vocabulary=int(text.get("vocab_size", 49408)),
            context=int(text.get("max_position_embeddings", 77)),
            projection=int(config.get("projection_dim", 512)),
        )
        for tower in (sizes.vision, sizes.text):
            if tower.activation not in ACTIVATIONS:
                raise ValueError(f"hidden_act {tower.activation!r} is not one of {', '.join(ACTIVATIONS)}")
        return sizes


class Weights(nn.Module):
    """The weights of a linear layer, a convolution or a table, uninitialised: they are always loaded."""

    def __init__(self, *shape: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(shape[0])) if bias else None

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """Apply them as a linear layer."""
        return linear(self, x)


class Attention(nn.Module):
    def __init__(self, sizes: TowerSizes) -> None:
        super().__init__()
        self.num_heads = sizes.heads
        self.scale = (sizes.width // sizes.heads) ** -0.5
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            Weights(sizes.width, sizes.width, bias=True) for _ in range(4)
        )

    def attend(
        self,
        normed: Float[Tensor, "b t c"],
        *,
        attention: bool = False,
        queries: int | None = None,
        causal: bool = False,
    ) -> tuple[Float[Tensor, "b q c"], Float[Tensor, "b q t"] | None]:
        """Attend from the first `queries` tokens (None: all) to all tokens, or with `causal` to earlier ones.

        The second value is the attention map averaged over heads, float32, if `attention` asks for it.
        """
        b, _, c = normed.shape

        def heads(projected: Tensor) -> Tensor:
            return projected.view(b, projected.shape[1], self.num_heads, -1).transpose(1, 2)

        normed = normed.to(self.q_proj.weight.dtype)
        q = heads(linear(self.q_proj, normed[:, :queries]))
        k, v = heads(linear(self.k_proj, normed)), heads(linear(self.v_proj, normed))
        if not attention:
            out = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
            return linear(self.out_proj, out.transpose(1, 2).reshape(b, -1, c)), None
        weights = (q * self.scale @ k.transpose(-1, -2)).softmax(-1)
        out = (weights @ v).transpose(1, 2).reshape(b, -1, c)
        return linear(self.out_proj, out), weights.detach().mean(1, dtype=torch.float32)


class Mlp(nn.Module):
    def __init__(self, sizes: TowerSizes) -> None:
        super().__init__()
        self._quick = sizes.activation == "quick_gelu"
        self.fc1 = Weights(sizes.mlp, sizes.width, bias=True)
        self.fc2 = Weights(sizes.width, sizes.mlp, bias=True)

    def forward(self, tokens: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        hidden = linear(self.fc1, tokens)
        if not self._quick:
            return linear(self.fc2, functional.gelu(hidden))
        if torch.is_grad_enabled():
            return linear(self.fc2, hidden * (QUICK_GELU * hidden).sigmoid())
        # In place: on a CPU allocating four times the size of the tokens takes longer than the arithmetic.
        return linear(self.fc2, hidden.mul_((QUICK_GELU * hidden).sigmoid_()))


class Layer(nn.Module):
    def __init__(self, sizes: TowerSizes) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(sizes), Mlp(sizes)
        self.layer_norm1, self.layer_norm2 = (nn.LayerNorm(sizes.width, sizes.epsilon) for _ in range(2))


class Layers(nn.Module):
    def __init__(self, sizes: TowerSizes) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(sizes) for _ in range(sizes.depth))

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)  # type: ignore[arg-type] # all of them are layers

    def __getitem__(self, index: int) -> Layer:
        return self.layers[index]  # type: ignore[return-value] # as above


class VisionEmbeddings(nn.Module):
    def __init__(self, sizes: ClipSizes) -> None:
        super().__init__()
        width = sizes.vision.width
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.patch_embedding = Weights(width, 3, sizes.patch, sizes.patch)
        self.position_embedding = Weights((sizes.image_size // sizes.patch) ** 2 + 1, width)


class VisionModel(nn.Module):
    def __init__(self, sizes: ClipSizes) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(sizes)
        self.pre_layrnorm = nn.LayerNorm(sizes.vision.width, sizes.vision.epsilon)
        self.encoder = Layers(sizes.vision)
        self.post_layernorm = nn.LayerNorm(sizes.vision.width, sizes.vision.epsilon)


class TextEmbeddings(nn.Module):
    def __init__(self, sizes: ClipSizes) -> None:
        super().__init__()
        self.token_embedding = Weights(sizes.vocabulary, sizes.text.width)
        self.position_embedding = Weights(sizes.context, sizes.text.width)


class TextModel(nn.Module):
    def __init__(self, sizes: ClipSizes) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(sizes)
        self.encoder = Layers(sizes.text)
        self.final_layer_norm = nn.LayerNorm(sizes.text.width, sizes.text.epsilon)

    def pooled(self, ids: Int[Tensor, "b t"], ends: Int[Tensor, " b"]) -> Float[Tensor, "b c"]:
        """Return the normalised token at each text's end, whose position `ends` holds."""
        embeddings = self.embeddings
        tokens = embeddings.token_embedding.weight[ids] + embeddings.position_embedding.weight[: ids.shape[1]]
        for layer in self.encoder:
            tokens = tokens + layer.self_attn.attend(layer.layer_norm1(tokens), causal=True)[0]
            tokens = tokens + layer.mlp(layer.layer_norm2(tokens))
        return self.final_layer_norm(tokens)[torch.arange(len(ids), device=ids.device), ends]  # type: ignore[no-any-return]


class ClipNetwork(nn.Module):
    def __init__(self, sizes: ClipSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.text_model, self.vision_model = TextModel(sizes), VisionModel(sizes)
        self.text_projection = Weights(sizes.projection, sizes.text.width)
        self.visual_projection = Weights(sizes.projection, sizes.vision.width)
        self.logit_scale = nn.Parameter(torch.empty(()))

    @classmethod
    def from_tensors(cls, sizes: ClipSizes, tensors: Mapping[str, Tensor]) -> "ClipNetwork":
        """Return the network with these tensors, in eval mode and without gradients.

        Raises:
            ValueError: tensors are missing or have another shape; the message counts them and names the first.

        """
        network = cls(sizes)
        wanted = network.state_dict()
        wrong = sorted(name for name, own in wanted.items() if name not in tensors or tensors[name].shape != own.shape)
        if wrong:
            raise ValueError(f"{len(wrong)} tensors are missing or have another shape, the first is {wrong[0]}")
        network.load_state_dict({name: tensors[name] for name in wanted}, assign=True)
        return network.eval().requires_grad_(requires_grad=False)


def linear(layer: Weights, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
    """Apply a layer in the precision of its weights."""
    return functional.linear(x.to(layer.weight.dtype), layer.weight, layer.bias)
