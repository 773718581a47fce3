"""The name of everything that a mask depends on besides the picture."""

import hashlib
import re
from collections.abc import Mapping

from car.recipe import Recipe
from car.vocabulary import Vocabulary

CODE_VERSION = "0.2.0"
"""Of the arithmetic: raised when the same inputs may give other masks."""
_OF_LABEL_STUDIO = re.compile(r"^(car-[^+]+\+(?:[0-9a-f]{8}\.){2}[0-9a-f]{8})\.[0-9a-f]{8}$")


def model_version(weights: Mapping[str, str], recipe: Recipe, vocabulary: Vocabulary) -> str:
    """`car-{code}+{weights}.{recipe}.{vocabulary}`, each digest cut to eight hex digits.

    `weights` maps a model's role (proposal, classifier, sam) to the sha256 of its safetensors. Equal strings mean equal
    masks; the string is what Label Studio compares before it asks again.
    """
    return f"car-{CODE_VERSION}+{_models(weights)[:8]}.{recipe.digest[:8]}.{vocabulary.digest[:8]}"


def label_studio_version(weights: Mapping[str, str] | None, recipe: Recipe, words: str, regions: str) -> str:
    """What Label Studio knows a project's predictions by: the model version, and a fifth digest of how masks become
    regions, so that it asks anew when a brush becomes a polygon. `words` is the vocabulary's digest, or that of the way
    in which each task gives its own; it and `regions` are cut to eight digits. Without `weights` (no worker has ever
    told them) their digest is zeros.
    """
    models = _models(weights) if weights is not None else "0" * 8
    return f"car-{CODE_VERSION}+{models[:8]}.{recipe.digest[:8]}.{words[:8]}.{regions[:8]}"


def results_version(version: str) -> str:
    """The model version of the results behind what Label Studio calls `version`: without the digest of regions, which
    results know nothing of. Any other text stays as it is.
    """
    return _OF_LABEL_STUDIO.sub(r"\1", version)


def run_key(image_sha256: str, weights: Mapping[str, str], recipe: Recipe, vocabulary: Vocabulary) -> str:
    """Sha256 (hex) over the picture's bytes and all that model_version names, uncut: equal keys mean equal masks."""
    parts = (image_sha256, vocabulary.digest, recipe.digest, _models(weights), CODE_VERSION)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _models(weights: Mapping[str, str]) -> str:
    return hashlib.sha256("\n".join(f"{role} {weights[role]}" for role in sorted(weights)).encode()).hexdigest()
