"""Models of a worker: where they are, and the only code that opens checkpoints."""

from pathlib import Path
from typing import NamedTuple


class ModelPaths(NamedTuple):
    """Folders, or the names of models that `car models pull` fetched."""

    proposal: str | Path
    classifier: str | Path
    sam: str | Path | None = None
    """Used by recipes with sam=on only; None: this worker has no SAM."""
