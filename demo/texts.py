"""The texts of the embedded models, as tokens."""

import re
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from car.text_data import BACKGROUNDS, CLASSIFIER_TEMPLATES
from demo.scenes import WORDS

BACKGROUND_WORDS: Final = BACKGROUNDS["shipped"]
"""CaR's 23 background queries."""

QUERIES: Final[tuple[str, ...]] = (*WORDS, *BACKGROUND_WORDS)
"""Every text without template: words first."""

RAW: Final = "{}"
"""Template of the proposal generator in its first step; later, and always for the background, `CAM_TEMPLATE`."""


def corpus_words() -> set[str]:
    """Return every lower-case word that the tokenizer encodes as one token."""
    texts = [template.format(word) for template in CLASSIFIER_TEMPLATES for word in QUERIES]
    return {word for text in texts for word in re.findall(r"[a-z]+", text.lower())}


@dataclass(frozen=True)
class Texts:
    """Tokens of every word in every template."""

    tokens: dict[str, Int[Tensor, "words length"]]
    """Template to the tokens of `QUERIES`, all padded to one length."""

    @classmethod
    def tokenize(cls, tokenizer: CLIPTokenizer) -> "Texts":
        templates = (RAW, *CLASSIFIER_TEMPLATES)
        texts = [template.format(word) for template in templates for word in QUERIES]
        ids = tokenizer(texts, padding=True, return_tensors="pt")["input_ids"]
        rows = ids.reshape(len(templates), len(QUERIES), -1)
        return cls({template: rows[k] for k, template in enumerate(templates)})


def text_features(model: CLIPModel, tokens: Int[Tensor, "n length"]) -> Float[Tensor, "n d"]:
    """Return L2-normalised text embeddings. Padding needs no mask: it follows the pooled token of a causal tower."""
    pooled = model.text_model(input_ids=tokens).pooler_output
    return torch.nn.functional.normalize(model.text_projection(pooled), dim=-1)
