"""Where a process finds its models."""

from pathlib import Path
from typing import NamedTuple


class ModelPaths(NamedTuple):
    """Folders, or names of models that were pulled."""

    proposal: str | Path
    classifier: str | Path
    sam: str | Path | None = None
    """Looked at only for recipes with sam=on; none: there is no SAM here."""
