"""What CaR reads from a CLIP: text embeddings, image tokens of any block, attention maps."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from car.clip_tokenizer import CONTEXT
from car.errors import VocabularyError
from worker.segmenter.clip.last_block import FinalLayers, LastBlock, exact_dtype
from worker.segmenter.clip.network import ClipNetwork, Layer, linear

_TEXT_BATCH_SIZE = 256
_CONTEXT_STEP = 4
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@runtime_checkable
class Tokenizer(Protocol):
    """Turns texts into token ids; car.clip_tokenizer.ClipTokenizer is one."""

    @property
    def end_id(self) -> int: ...

    def token_ids(self, text: str) -> list[int]:
        """Return the ids of a text, start and end included."""


class Encoder:
    """A CLIP model of any patch size, depth and precision.

    It runs the image tower block by block because CaR needs what a forward pass does not return: tokens before the last
    block, its ln_1 activation, head-averaged attention maps. It keeps no state between calls.
    """

    def __init__(self, network: ClipNetwork, tokenizer: Tokenizer) -> None:
        """`network` is in eval mode on its device."""
        self._network = network
        self.tokenizer = tokenizer
        sizes = network.sizes
        self.patch, self.image_size, self.depth, self.width = (
            sizes.patch, sizes.image_size, sizes.vision.depth, sizes.projection,
        )  # fmt: skip
        self.scale: float = float(network.logit_scale.detach().float().exp())
        """exp(logit_scale): multiplies cosines before the softmax."""
        self._final_layers: dict[torch.dtype, FinalLayers] = {}

    @property
    def device(self) -> torch.device:
        return self._network.visual_projection.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self._network.visual_projection.weight.dtype

    def round_blocks(self, dtype: torch.dtype) -> None:
        """Convert the matrices of the image tower's blocks, and nothing else, to this precision.

        They take nearly all of an image's time. Tokens between blocks, norms, softmax, projection and texts keep their
        precision, which leaves a fifth of the error of a whole model in bfloat16.
        """
        for layer in self._network.vision_model.encoder:
            attention, mlp = layer.self_attn, layer.mlp
            for matrix in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj, mlp.fc1, mlp.fc2):
                matrix.to(dtype)

    # Text

    def tokens(self, texts: Sequence[str]) -> Int[Tensor, "n 77"]:
        """Return token ids, padded to CLIP's context.

        Raises:
            VocabularyError: a text has more tokens than CLIP reads; the message names it.

        """
        ids = [self.tokenizer.token_ids(text) for text in texts]
        for text, row in zip(texts, ids, strict=True):
            if len(row) > CONTEXT:
                raise VocabularyError(
                    f"{text!r} has {len(row)} tokens, but CLIP reads {CONTEXT}, start and end included: shorten it"
                )
        # The padding is never read, because the text tower attends to earlier tokens only.
        padding = [self.tokenizer.end_id] * CONTEXT
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
        ends = (tokens == self.tokenizer.end_id).int().argmax(1)
        if context is None:
            context = min(CONTEXT, -(-(1 + int(ends.max())) // _CONTEXT_STEP) * _CONTEXT_STEP)
        parts = []
        for batch, positions in zip(*(torch.split(part, _TEXT_BATCH_SIZE) for part in (tokens, ends)), strict=True):
            pooled = self._network.text_model.pooled(batch[:, :context], positions)
            parts.append(functional.normalize(linear(self._network.text_projection, pooled).float(), dim=-1))
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
        vision = self._network.vision_model
        patches = functional.conv2d(images, vision.embeddings.patch_embedding.weight, stride=self.patch)
        rows, columns = patches.shape[-2:]
        tokens = patches.flatten(2).transpose(1, 2)
        classes = vision.embeddings.class_embedding.expand(len(tokens), 1, -1).to(tokens.dtype)
        positions = self._positions(rows, columns)
        if round_positions:
            positions = positions.half()
        return vision.pre_layrnorm(torch.cat([classes, tokens], 1) + positions.to(tokens.dtype))  # type: ignore[no-any-return]

    def _positions(self, rows: int, columns: int) -> Float[Tensor, "1 t c"]:
        table = self._network.vision_model.embeddings.position_embedding.weight.float()
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
        attended, weights = layer.self_attn.attend(normed, attention=attention)
        tokens = tokens + attended
        return tokens + layer.mlp(layer.layer_norm2(tokens)), weights

    def class_token(self, tokens: Float[Tensor, "b t c"], index: int) -> Float[Tensor, "b c"]:
        """Return the class token after a block, for a sixth of its work: other tokens need keys and values only."""
        layer = self._layer(index)
        attended, _ = layer.self_attn.attend(self.ln_1(tokens, index), queries=1)
        first = tokens[:, :1] + attended
        return (first + layer.mlp(layer.layer_norm2(first)))[:, 0]  # type: ignore[no-any-return]

    def last_block(self, tokens: Float[Tensor, "t c"]) -> LastBlock:
        """Return the last block of one image from the tokens that enter it, in float64 if they are float32."""
        dtype = exact_dtype(tokens)
        if dtype not in self._final_layers:
            self._final_layers[dtype] = FinalLayers.copy_from(self._network, dtype)
        return LastBlock(self._final_layers[dtype], tokens.to(dtype))

    def project(self, tokens: Float[Tensor, "*b c"]) -> Float[Tensor, "*b d"]:
        """Apply ln_post and the projection into the text space."""
        return linear(self._network.visual_projection, self._network.vision_model.post_layernorm(tokens))

    def project_mean(self, tokens: Float[Tensor, "b p c"]) -> Float[Tensor, "b d"]:
        """Return the embedding of length 1, float32, of the mean over tokens after ln_post."""
        mean = self._network.vision_model.post_layernorm(tokens).mean(1)
        return functional.normalize(linear(self._network.visual_projection, mean).float(), dim=-1)

    def _layer(self, index: int) -> Layer:
        return self._network.vision_model.encoder[index]
