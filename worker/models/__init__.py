"""Models of a worker: where they are, and the only code that opens checkpoints."""

from pathlib import Path
from typing import NamedTuple

from car.model_cards import ModelCard, read_card


class ModelPaths(NamedTuple):
    """Folders, or the names of models that `car models pull` fetched."""

    proposal: str | Path
    classifier: str | Path
    sam: str | Path | None = None
    """Used by recipes with sam=on only; None: this worker has no SAM."""

    def cards(self, *, sam: bool) -> dict[str, ModelCard]:
        """Return the model card of each role; that of the SAM only for recipes with sam=on."""
        paths = {"proposal": self.proposal, "classifier": self.classifier} | (
            {"sam": self.sam} if sam and self.sam else {}
        )
        return {role: read_card(Path(path), model_name(path)) for role, path in paths.items()}


def model_name(path: str | Path) -> str:
    """Return a pulled model's name, or the end of a folder's path, which says nothing about the machine."""
    return path if isinstance(path, str) and not Path(path).exists() else "/".join(Path(path).resolve().parts[-2:])
