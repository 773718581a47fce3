"""Which weights a result would be of, told without torch: what workers offer, else the models that lie here."""

from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path

from sqlalchemy.orm import Session

from api.label_studio.context import BackendContext
from car.recipe import Recipe
from car.weights_digest import WEIGHTS, remembered_digest, weights_digest
from db.queue import model_registry

_ROLES = ("proposal", "classifier")
_QUICK = 64 * 2**20
"""Bytes that are hashed while Label Studio waits; it gives /setup three seconds."""


def weights_of(session: Session, face: BackendContext, recipe: Recipe) -> Mapping[str, str] | None:
    """None where no worker was ever here and the models are not at hand: the first one changes the version then."""
    return weights_beside(model_registry.weights_for(session, recipe), face, recipe)


def weights_beside(offered: Mapping[str, str] | None, face: BackendContext, recipe: Recipe) -> Mapping[str, str] | None:
    """The same, where it is known what workers offer."""
    return offered or _at_hand(face.settings.models, recipe)


def _at_hand(models: str, recipe: Recipe) -> Mapping[str, str] | None:
    if models == "openai":
        return None
    folder = Path(str(resources.files("demo"))) / "weights" if models == "demo" else Path(models)
    found: dict[str, str] = {}
    for role in (*_ROLES, "sam") if recipe.sam else _ROLES:
        try:
            stat = (folder / role / WEIGHTS).stat()
            digest = _digest(folder / role, stat.st_size, stat.st_mtime_ns)
        except OSError:
            return None
        if digest is None:
            return None
        found[role] = digest
    return found


@lru_cache(maxsize=16)
def _digest(folder: Path, size: int, _mtime_ns: int) -> str | None:
    return weights_digest(folder) if size <= _QUICK else remembered_digest(folder)
