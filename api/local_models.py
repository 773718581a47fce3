"""The models of CAR_MODELS on the API's machine, for what is asked before a worker has registered its own."""

from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path

from car.model_cards import ModelCard, read_card
from car.recipe import Recipe
from car.weights_digest import WEIGHTS, remembered_digest, weights_digest

_HASHED_BYTES = 64 * 2**20
"""Larger weights are not hashed while Label Studio waits: it gives /setup three seconds."""


def cards(models: str) -> list[ModelCard]:
    """Return the card of the CLIPs in CAR_MODELS, if it is a folder."""
    folder = _folder(models)
    return [read_card(folder / "proposal", folder.name)] if folder else []


def _folder(models: str) -> Path | None:
    if models == "openai":
        return None
    return Path(str(resources.files("demo"))) / "weights" if models == "demo" else Path(models)


def weights(models: str, recipe: Recipe) -> Mapping[str, str] | None:
    """Return the sha256 of each role's weights in CAR_MODELS; None if it has none or they take long to hash."""
    folder = _folder(models)
    if folder is None:
        return None
    digests: dict[str, str] = {}
    for role in ("proposal", "classifier", *(("sam",) if recipe.sam else ())):
        try:
            stat = (folder / role / WEIGHTS).stat()
            digest = _digest(folder / role, stat.st_size, stat.st_mtime_ns)
        except OSError:
            return None
        if digest is None:
            return None
        digests[role] = digest
    return digests


@lru_cache(maxsize=16)
def _digest(folder: Path, size: int, _mtime_ns: int) -> str | None:
    return weights_digest(folder) if size <= _HASHED_BYTES else remembered_digest(folder)
