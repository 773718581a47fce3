"""CLIP's two towers over transformers' CLIPModel: text embeddings, image tokens of any block, attention maps."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from car.clip_tokenizer import CONTEXT, clean_text
from car.errors import VocabularyError
from worker.segmenter.clip.last_block import QUICK_GELU, FinalLayers, LastBlock, exact_dtype

_TEXT_BATCH_SIZE = 256
_CONTEXT_STEP = 4
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class Encoder:
    """A CLIP model of any patch size, depth and precision.

    It runs the image tower block by block because CaR needs what a forward pass does not return: tokens before the last
    block, its ln_1 activation, head-averaged attention maps. It keeps no state between calls.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:  # noqa: ANN401 - transformers publishes no types
        """`model` is a transformers CLIPModel in eval mode on its device, `tokenizer` its CLIPTokenizer."""
        self._model = model
        self.tokenizer = tokenizer
        vision = model.config.vision_config
        self.patch: int = vision.patch_size
        self.image_size: int = vision.image_size
        self.depth: int = vision.num_hidden_layers
        self.width: int = model.config.projection_dim
        self.scale: float = float(model.logit_scale.detach().float().exp())
        """exp(logit_scale): multiplies cosines before the softmax."""
        self._quick = vision.hidden_act == "quick_gelu"
        self._final_layers: dict[torch.dtype, FinalLayers] = {}

    @property
    def device(self) -> torch.device:
        return self._model.visual_projection.weight.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        return self._model.visual_projection.weight.dtype  # type: ignore[no-any-return]

    def round_blocks(self, dtype: torch.dtype) -> None:
        """Convert the matrices of the image tower's blocks, and nothing else, to this precision.

        They take nearly all of an image's time. Tokens between blocks, norms, softmax, projection and texts keep their
        precision, which leaves a fifth of the error of a whole model in bfloat16.
        """
        for layer in self._model.vision_model.encoder.layers:
            attention, mlp = layer.self_attn, layer.mlp
            for matrix in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj, mlp.fc1, mlp.fc2):
                matrix.to(dtype)

    # Text

    def tokens(self, texts: Sequence[str]) -> Int[Tensor, "n 77"]:
        """Return token ids, padded to CLIP's context.

        Raises:
            VocabularyError: a text has more tokens than CLIP reads; the message names it.

        """
        # transformers' tokenizer leaves out the cleaning of OpenAI's.
        ids = self.tokenizer([clean_text(text) for text in texts], padding=False, truncation=False)["input_ids"]
        for text, row in zip(texts, ids, strict=True):
            if len(row) > CONTEXT:
                raise VocabularyError(
                    f"{text!r} has {len(row)} tokens, but CLIP reads {CONTEXT}, start and end included: shorten it"
                )
        # The padding is never read, because the text tower attends to earlier tokens only.
        padding = [int(self.tokenizer.eos_token_id)] * CONTEXT
        return torch.tensor([(row + padding)[:CONTEXT] for row in ids], dtype=torch.long).to(self.device)

    @torch.no_grad()
    def texts(self, texts: Sequence[str], *, context: int | None = None) -> Float[Tensor, "n d"]:
        """Return embeddings of length 1, float32.

        Positions behind the end token change nothing, so the tower computes `context` positions or, by default, as many
        as the longest text needs, rounded up so that the other texts seldom change the shape.
        """
        if not texts:
            return torch.zeros(0, self.width, device=self.device)
        tokens = self.tokens(texts)
        if context is None:
            longest = 1 + int((tokens == int(self.tokenizer.eos_token_id)).int().argmax(1).max())
            context = min(CONTEXT, -(-longest // _CONTEXT_STEP) * _CONTEXT_STEP)
        tokens = tokens[:, :context]
        parts = []
        for batch in torch.split(tokens, _TEXT_BATCH_SIZE):
            pooled = self._model.text_model(input_ids=batch).pooler_output
            parts.append(functional.normalize(self._model.text_projection(pooled).float(), dim=-1))
        return torch.cat(parts)

    # Image

    def normalise(self, pixels: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
        """Turn RGB bytes into CLIP's input: scaled to 0..1, then standardised with its mean and deviation."""
        floats = pixels.to(self.device).permute(0, 3, 1, 2).float() / 255
        mean = torch.tensor(MEAN, device=self.device).view(1, 3, 1, 1)
        std = torch.tensor(STD, device=self.device).view(1, 3, 1, 1)
        return ((floats - mean) / std).to(self.dtype)

    def embed(self, images: Float[Tensor, "b 3 h w"], *, round_positions: bool) -> Float[Tensor, "b t c"]:
        """Return the tokens that enter the first block: class token first, then patches row by row.

        The grid of positions is resized bilinearly to the image's (official clip wrapper). `round_positions` rounds
        them to float16, as the official code does on every device.
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
        """Return the tokens after blocks `start`..`stop`-1 (from 0), and a sum of attention maps, float32.

        It adds the head-averaged maps of the blocks from `attention_from` on, and is zero if there are none.
        """
        total = torch.zeros(1, 1, 1, device=tokens.device).expand(len(tokens), tokens.shape[1], tokens.shape[1])
        for index in range(start, stop):
            tokens, attention = self.block(tokens, self.ln_1(tokens, index), index, attention=index >= attention_from)
            if attention is not None:
                total = total + attention
        return tokens, total

    def ln_1(self, tokens: Float[Tensor, "b t c"], index: int) -> Float[Tensor, "b t c"]:
        """Return the normalised tokens that a block's attention reads: A of the GradCAM if the block is the last."""
        return self._layer(index).layer_norm1(tokens)  # type: ignore[no-any-return]

    def block(
        self, tokens: Float[Tensor, "b t c"], normed: Float[Tensor, "b t c"], index: int, *, attention: bool
    ) -> tuple[Float[Tensor, "b t c"], Float[Tensor, "b t t"] | None]:
        """Run one residual block; `normed` is `ln_1(tokens)`, a parameter so that gradients can stop there.

        The second value is the attention map averaged over heads, float32, or None.
        """
        layer = self._layer(index)
        attended, weights = _attend(layer.self_attn, normed, attention=attention)
        tokens = tokens + attended
        return tokens + self._mlp(layer, tokens), weights

    def class_token(self, tokens: Float[Tensor, "b t c"], index: int) -> Float[Tensor, "b c"]:
        """Return the class token after a block, for a sixth of its work: other tokens need keys and values only."""
        layer = self._layer(index)
        attended, _ = _attend(layer.self_attn, self.ln_1(tokens, index), attention=False, queries=1)
        first = tokens[:, :1] + attended
        return (first + self._mlp(layer, first))[:, 0]

    def last_block(self, tokens: Float[Tensor, "t c"]) -> LastBlock:
        """Return the last block of one image from the tokens that enter it, in float64 if they are float32."""
        dtype = exact_dtype(tokens)
        if dtype not in self._final_layers:
            self._final_layers[dtype] = FinalLayers.copy_from(self._model, dtype)
        return LastBlock(self._final_layers[dtype], tokens.to(dtype))

    def project(self, tokens: Float[Tensor, "*b c"]) -> Float[Tensor, "*b d"]:
        """Apply ln_post and the projection into the text space."""
        return self._model.visual_projection(self._model.vision_model.post_layernorm(tokens))  # type: ignore[no-any-return]

    def project_mean(self, tokens: Float[Tensor, "b p c"]) -> Float[Tensor, "b d"]:
        """Return the embedding of length 1, float32, of the mean over tokens after ln_post."""
        mean = self._model.vision_model.post_layernorm(tokens).mean(1)
        return functional.normalize(self._model.visual_projection(mean).float(), dim=-1)

    def _mlp(self, layer: Any, tokens: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:  # noqa: ANN401
        hidden = _linear(layer.mlp.fc1, layer.layer_norm2(tokens))
        if not self._quick or torch.is_grad_enabled():
            return _linear(layer.mlp.fc2, layer.mlp.activation_fn(hidden))
        # In place: on a CPU allocating four times the size of the tokens takes longer than the arithmetic.
        return _linear(layer.mlp.fc2, hidden.mul_((QUICK_GELU * hidden).sigmoid_()))

    def _layer(self, index: int) -> Any:  # noqa: ANN401 - transformers publishes no types
        return self._model.vision_model.encoder.layers[index]


def _attend(
    layer: Any,  # noqa: ANN401 - transformers publishes no types
    normed: Float[Tensor, "b t c"],
    *,
    attention: bool,
    queries: int | None = None,
) -> tuple[Float[Tensor, "b q c"], Float[Tensor, "b q t"] | None]:
    """Attend from the first `queries` tokens (None: all) to all tokens."""
    b, _, c = normed.shape

    def heads(projected: Tensor) -> Tensor:
        return projected.view(b, projected.shape[1], layer.num_heads, -1).transpose(1, 2)

    normed = normed.to(layer.q_proj.weight.dtype)
    q = heads(_linear(layer.q_proj, normed[:, :queries]))
    k, v = heads(_linear(layer.k_proj, normed)), heads(_linear(layer.v_proj, normed))
    if not attention:
        out = functional.scaled_dot_product_attention(q, k, v)
        return _linear(layer.out_proj, out.transpose(1, 2).reshape(b, -1, c)), None
    weights = (q * layer.scale @ k.transpose(-1, -2)).softmax(-1)
    out = (weights @ v).transpose(1, 2).reshape(b, -1, c)
    return _linear(layer.out_proj, out), weights.detach().mean(1, dtype=torch.float32)


def _linear(layer: Any, x: Float[Tensor, "b t i"]) -> Float[Tensor, "b t o"]:  # noqa: ANN401
    return functional.linear(x.to(layer.weight.dtype), layer.weight, layer.bias)
