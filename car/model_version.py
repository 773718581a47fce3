"""Model versions and run keys: digests of everything that a mask depends on."""

import hashlib
import re
from collections.abc import Mapping

from car.recipe import Recipe
from car.vocabulary import Vocabulary

CODE_VERSION = "0.4.0"
"""Version of the arithmetic, raised when the same inputs can give other masks or scores."""
_OF_LABEL_STUDIO = re.compile(r"^(car-[^+]+\+(?:[0-9a-f]{8}\.){2}[0-9a-f]{8})\.[0-9a-f]{8}$")


def model_version(weights: Mapping[str, str], recipe: Recipe, vocabulary: Vocabulary) -> str:
    """Return `car-{code}+{weights}.{recipe}.{vocabulary}`, each digest truncated to eight hex digits.

    `weights` maps a model's role (proposal, classifier, sam) to the sha256 of its safetensors. Equal strings mean equal
    masks; the string is what Label Studio compares before it asks again.
    """
    return f"car-{CODE_VERSION}+{_models(weights)[:8]}.{recipe.digest[:8]}.{vocabulary.digest[:8]}"


def label_studio_version(weights: Mapping[str, str] | None, recipe: Recipe, words: str, regions: str) -> str:
    """Return the version of a project's predictions in Label Studio: the model version and a digest of how masks become
    regions, so that changing a brush to a polygon requests new predictions. `words` is the digest of the vocabulary, or
    of the rule by which each task defines its own. Without `weights` (no worker has registered any) their digest is
    zeros.
    """
    models = _models(weights) if weights is not None else "0" * 8
    return f"car-{CODE_VERSION}+{models[:8]}.{recipe.digest[:8]}.{words[:8]}.{regions[:8]}"


def results_version(version: str) -> str:
    """Return the model version of the results behind a version of Label Studio, which has one more digest (regions).
    Any other text is returned unchanged.
    """
    return _OF_LABEL_STUDIO.sub(r"\1", version)


def run_key(image_sha256: str, weights: Mapping[str, str], recipe: Recipe, vocabulary: Vocabulary) -> str:
    """Return the sha256 (hex) over the image's and model_version's full digests: equal keys mean equal masks."""
    parts = (image_sha256, vocabulary.digest, recipe.digest, _models(weights), CODE_VERSION)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _models(weights: Mapping[str, str]) -> str:
    return hashlib.sha256("\n".join(f"{role} {weights[role]}" for role in sorted(weights)).encode()).hexdigest()
