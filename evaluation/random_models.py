"""CLIPs of any size with seeded random weights, built without a download: real shapes for speed, tiny ones for tests.

Speed and arithmetic depend on shapes alone, so a ViT-B/16 of random numbers times and proves as much as a trained one.
What random numbers cannot give is meaning: the cosines of two of their embeddings hardly differ.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import CLIPConfig, CLIPModel

from worker.segmenter.clip.encoder import Encoder

_START, _END = 49406, 49407
_WORDS = 49152
"""Token ids that a word may get; CLIP's own byte and merge ids end here."""


@dataclass(frozen=True)
class Shape:
    """The sizes of one CLIP: all that its speed depends on."""

    patch: int
    image_size: int
    width: int
    heads: int
    depth: int
    text_width: int
    text_heads: int
    text_depth: int
    projection: int


VIT_B16 = Shape(16, 224, 768, 12, 12, 512, 8, 12, 512)
VIT_L14 = Shape(14, 224, 1024, 16, 24, 768, 12, 12, 768)
TINY_F = Shape(16, 64, 64, 4, 4, 32, 2, 2, 48)
TINY_G = Shape(14, 56, 64, 4, 5, 32, 2, 2, 40)


class WordTokenizer:
    """CLIP's tokenizer interface, as far as Encoder uses it: one id a word or mark, always the same one.

    A real tokenizer gives common words one token too, so texts have their real lengths.
    """

    eos_token_id = _END

    def __call__(self, texts: Sequence[str], *, padding: bool, truncation: bool) -> dict[str, list[list[int]]]:
        """Start, words, end of each text; a list of lists cannot be padded or cut, so nobody may ask for it."""
        if padding or truncation:
            raise ValueError("this tokenizer neither pads nor truncates")
        return {"input_ids": [[_START, *(_word_id(word) for word in _words(text)), _END] for text in texts]}


def encoder(
    shape: Shape,
    *,
    seed: int,
    scale: float = 100.0,
    gain: float = 1.0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Encoder:
    """An Encoder of that shape; see `clip`."""
    return Encoder(clip(shape, seed=seed, scale=scale, gain=gain, dtype=dtype, device=device), WordTokenizer())


def clip(
    shape: Shape,
    *,
    seed: int,
    scale: float = 100.0,
    gain: float = 1.0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> CLIPModel:
    """A CLIP of that shape. `scale` is exp(logit_scale), 100 in every trained one.

    Weights are transformers' own initialisation, but for biases and norms, which would be 0 and 1: they are random
    too, so that an error in one of them shows. `gain` multiplies matrices: fresh ones attend to everything alike, which
    leaves CAA nothing but rounding errors to scale up; 4 makes small models take sides.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(_config(shape)).eval().requires_grad_(requires_grad=False)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.02)
            elif "norm" in name:
                parameter.normal_(1.0, 0.1)
            elif parameter.ndim > 1:
                parameter.mul_(gain)
    model.logit_scale.fill_(torch.tensor(scale).log())
    return model.to(device, dtype)


def _config(shape: Shape) -> CLIPConfig:
    return CLIPConfig(
        projection_dim=shape.projection,
        vision_config={
            "patch_size": shape.patch,
            "image_size": shape.image_size,
            "hidden_size": shape.width,
            "intermediate_size": 4 * shape.width,
            "num_attention_heads": shape.heads,
            "num_hidden_layers": shape.depth,
            "projection_dim": shape.projection,
            "hidden_act": "quick_gelu",
        },
        text_config={
            "vocab_size": _END + 1,
            "hidden_size": shape.text_width,
            "intermediate_size": 4 * shape.text_width,
            "num_attention_heads": shape.text_heads,
            "num_hidden_layers": shape.text_depth,
            "projection_dim": shape.projection,
            "hidden_act": "quick_gelu",
            "bos_token_id": _START,
            "eos_token_id": _END,
        },
    )


def _words(text: str) -> list[str]:
    marked = "".join(letter if letter.isalnum() else f" {letter} " for letter in text.lower())
    return marked.split()


def _word_id(word: str) -> int:
    return zlib.crc32(word.encode()) % _WORDS
