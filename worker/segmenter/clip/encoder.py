"""CLIP's two towers over transformers' CLIPModel: text embeddings, image tokens up to a block, attention maps."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from car.errors import VocabularyError
from worker.segmenter.clip.last_block import LastBlock

CONTEXT = 77
"""Tokens that CLIP's text tower reads."""
_TEXTS_AT_ONCE = 256
_POSITIONS_STEP = 4
_QUICK_GELU = 1.702
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


class Encoder:
    """One CLIP model, of any patch size and depth, in the precision in which it is given.

    The towers are walked block by block because CaR needs what a forward pass does not return: tokens before the last
    block, its ln_1 activation, head-averaged attention maps. Nothing is kept between calls.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:  # noqa: ANN401 - transformers publishes no types
        """`model` is a transformers CLIPModel in eval mode on its device, `tokenizer` its CLIPTokenizer."""
        self._model = model
        self._tokenizer = tokenizer
        vision = model.config.vision_config
        self.patch: int = vision.patch_size
        self.image_size: int = vision.image_size
        self.depth: int = vision.num_hidden_layers
        self.width: int = model.config.projection_dim
        self.scale: float = float(model.logit_scale.detach().float().exp())
        """exp(logit_scale): multiplies cosines before the softmax."""
        self._quick = vision.hidden_act == "quick_gelu"

    @property
    def device(self) -> torch.device:
        return self._model.visual_projection.weight.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        return self._model.visual_projection.weight.dtype  # type: ignore[no-any-return]

    def round_blocks(self, dtype: torch.dtype) -> None:
        """From now on multiply in this precision in the image tower's blocks, and there alone.

        These matrices are nearly all of a picture's time. Tokens between blocks, norms, softmax, projection and texts
        keep theirs, which leaves a fifth of the error of a whole model in bfloat16.
        """
        for layer in self._model.vision_model.encoder.layers:
            attention, mlp = layer.self_attn, layer.mlp
            for matrix in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj, mlp.fc1, mlp.fc2):
                matrix.to(dtype)

    # Text

    def tokens(self, texts: Sequence[str]) -> Int[Tensor, "n 77"]:
        """Token ids, padded to CLIP's context.

        Raises:
            VocabularyError: a text of more tokens than CLIP reads; the message names it.

        """
        ids = self._tokenizer(list(texts), padding=False, truncation=False)["input_ids"]
        for text, row in zip(texts, ids, strict=True):
            if len(row) > CONTEXT:
                raise VocabularyError(
                    f"{text!r} is {len(row)} tokens long; CLIP reads {CONTEXT}, start and end included: shorten it"
                )
        # What stands behind the end token is never read: the text tower looks back only.
        padded = torch.full((len(ids), CONTEXT), int(self._tokenizer.eos_token_id), dtype=torch.long)
        for i, row in enumerate(ids):
            padded[i, : len(row)] = torch.tensor(row)
        return padded.to(self.device)

    @torch.no_grad()
    def texts(self, texts: Sequence[str], *, context: int | None = None) -> Float[Tensor, "n d"]:
        """Embeddings of length 1, float32.

        The tower looks back only, so positions behind the end token change nothing. It computes `context` of them, or
        no more than the longest text needs, in steps of a few so that a text's company seldom changes the shape.
        """
        if not texts:
            return torch.zeros(0, self.width, device=self.device)
        tokens = self.tokens(texts)
        if context is None:
            longest = 1 + int((tokens == int(self._tokenizer.eos_token_id)).int().argmax(1).max())
            context = min(CONTEXT, -(-longest // _POSITIONS_STEP) * _POSITIONS_STEP)
        tokens = tokens[:, :context]
        parts = []
        for chunk in torch.split(tokens, _TEXTS_AT_ONCE):
            pooled = self._model.text_model(input_ids=chunk).pooler_output
            parts.append(_unit(self._model.text_projection(pooled).float()))
        return torch.cat(parts)

    # Image

    def normalise(self, pixels: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
        """RGB bytes to CLIP's input: 0..1, then its own mean and deviation."""
        floats = pixels.to(self.device).permute(0, 3, 1, 2).float() / 255
        mean = torch.tensor(_MEAN, device=self.device).view(1, 3, 1, 1)
        std = torch.tensor(_STD, device=self.device).view(1, 3, 1, 1)
        return ((floats - mean) / std).to(self.dtype)

    def embed(self, images: Float[Tensor, "b 3 h w"], *, round_positions: bool) -> Float[Tensor, "b t c"]:
        """Tokens that enter block 1: class token first, then patches row by row.

        The grid of positions is resized bilinearly to the picture's (official clip wrapper), and rounded to float16
        where asked, which the official code does on every device.
        """
        vision = self._model.vision_model
        patches = vision.embeddings.patch_embedding(images)
        rows, columns = patches.shape[-2:]
        tokens = patches.flatten(2).transpose(1, 2)
        classes = vision.embeddings.class_embedding.expand(len(tokens), 1, -1).to(tokens.dtype)
        positions = self._positions(rows, columns)
        if round_positions:
            positions = positions.half()
        return vision.pre_layrnorm(torch.cat([classes, tokens], 1) + positions.to(tokens.dtype))  # type: ignore[no-any-return]

    def _positions(self, rows: int, columns: int) -> Float[Tensor, "1 t c"]:
        table = self._model.vision_model.embeddings.position_embedding.weight.float()
        side = self.image_size // self.patch
        grid = table[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        resized = functional.interpolate(grid, size=(rows, columns), mode="bilinear", align_corners=False)
        return torch.cat([table[:1], resized.flatten(2)[0].T])[None]

    def blocks(
        self, tokens: Float[Tensor, "b t c"], start: int, stop: int, *, attention_from: int
    ) -> tuple[Float[Tensor, "b t c"], Float[Tensor, "b t t"]]:
        """Tokens after blocks `start`..`stop`-1 (counted from 0), and the sum of the head-averaged attention maps of
        the blocks from `attention_from` on, float32 (zero where there are none).
        """
        total = torch.zeros(1, 1, 1, device=tokens.device).expand(len(tokens), tokens.shape[1], tokens.shape[1])
        for index in range(start, stop):
            tokens, attention = self.block(tokens, self.ln_1(tokens, index), index, attention=index >= attention_from)
            if attention is not None:
                total = total + attention
        return tokens, total

    def ln_1(self, tokens: Float[Tensor, "b t c"], index: int) -> Float[Tensor, "b t c"]:
        """The normalised tokens that a block's attention reads: A of the GradCAM, where the block is the last."""
        return self._layer(index).layer_norm1(tokens)  # type: ignore[no-any-return]

    def block(
        self, tokens: Float[Tensor, "b t c"], normed: Float[Tensor, "b t c"], index: int, *, attention: bool
    ) -> tuple[Float[Tensor, "b t c"], Float[Tensor, "b t t"] | None]:
        """One residual block; `normed` is `ln_1(tokens)`, taken apart so that gradients may stop there.

        The second value is the attention map averaged over heads, float32, where asked.
        """
        layer = self._layer(index)
        attended, weights = _attend(layer.self_attn, normed, attention=attention)
        tokens = tokens + attended
        return tokens + self._mlp(layer, tokens), weights

    def class_token(self, tokens: Float[Tensor, "b t c"], index: int) -> Float[Tensor, "b c"]:
        """The class token after a block, for a sixth of the block's work: the others lend keys and values alone."""
        layer = self._layer(index)
        attended, _ = _attend(layer.self_attn, self.ln_1(tokens, index), attention=False, queries=1)
        first = tokens[:, :1] + attended
        return (first + self._mlp(layer, first))[:, 0]

    def last_block(self, tokens: Float[Tensor, "t c"]) -> LastBlock:
        """One picture's last block with its gradients, from the tokens that enter it."""
        vision = self._model.vision_model
        return LastBlock(self._layer(self.depth - 1), vision.post_layernorm, self._model.visual_projection, tokens)

    def project(self, tokens: Float[Tensor, "*b c"]) -> Float[Tensor, "*b d"]:
        """ln_post, then the projection into the space of texts."""
        return self._model.visual_projection(self._model.vision_model.post_layernorm(tokens))  # type: ignore[no-any-return]

    def project_mean(self, tokens: Float[Tensor, "b p c"]) -> Float[Tensor, "b d"]:
        """Embedding of length 1, float32, of the mean over tokens after ln_post."""
        mean = self._model.vision_model.post_layernorm(tokens).mean(1)
        return _unit(self._model.visual_projection(mean).float())

    def _mlp(self, layer: Any, tokens: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:  # noqa: ANN401
        hidden = _linear(layer.mlp.fc1, layer.layer_norm2(tokens))
        if not self._quick or torch.is_grad_enabled():
            return _linear(layer.mlp.fc2, layer.mlp.activation_fn(hidden))
        # In place: fresh memory for what is four times as wide as the tokens takes a CPU longer than the arithmetic.
        gate = (_QUICK_GELU * hidden).sigmoid_()
        return _linear(layer.mlp.fc2, hidden.mul_(gate))

    def _layer(self, index: int) -> Any:  # noqa: ANN401 - transformers publishes no types
        return self._model.vision_model.encoder.layers[index]


def _attend(
    layer: Any,  # noqa: ANN401 - transformers publishes no types
    normed: Float[Tensor, "b t c"],
    *,
    attention: bool,
    queries: int | None = None,
) -> tuple[Float[Tensor, "b q c"], Float[Tensor, "b q t"] | None]:
    """What the first `queries` tokens (none: all) gather from all tokens."""
    b, _, c = normed.shape

    def heads(projected: Tensor) -> Tensor:
        return projected.view(b, projected.shape[1], layer.num_heads, -1).transpose(1, 2)

    normed = normed.to(layer.q_proj.weight.dtype)
    q, k, v = (
        heads(_linear(layer.q_proj, normed[:, :queries])),
        heads(_linear(layer.k_proj, normed)),
        heads(_linear(layer.v_proj, normed)),
    )
    if not attention:
        out = functional.scaled_dot_product_attention(q, k, v)
        return _linear(layer.out_proj, out.transpose(1, 2).reshape(b, -1, c)), None
    weights = (q * layer.scale @ k.transpose(-1, -2)).softmax(-1)
    out = (weights @ v).transpose(1, 2).reshape(b, -1, c)
    return _linear(layer.out_proj, out), weights.detach().mean(1, dtype=torch.float32)


def _linear(layer: Any, x: Float[Tensor, "b t i"]) -> Float[Tensor, "b t o"]:  # noqa: ANN401
    return functional.linear(x.to(layer.weight.dtype), layer.weight, layer.bias)


def _unit(x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    return functional.normalize(x, dim=-1)
