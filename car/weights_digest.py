"""Digests of model weights: the sha256 of a folder's safetensors, without torch."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

WEIGHTS = "model.safetensors"
_READ = 1 << 20


def weights_digest(folder: Path) -> str:
    """Return the sha256 (hex) of the folder's safetensors, cached until the file's size or time changes."""
    if (known := remembered_digest(folder)) is not None:
        return known
    sha = hashlib.sha256()
    with (folder / WEIGHTS).open("rb") as stream:
        stamp = _file_signature(folder)
        while chunk := stream.read(_READ):
            sha.update(chunk)
    with contextlib.suppress(OSError):  # in a read-only folder the digest is computed each time
        _memo(folder).write_text(json.dumps(stamp | {"sha256": sha.hexdigest()}))
    return sha.hexdigest()


def remembered_digest(folder: Path) -> str | None:
    """Return the cached digest of the present file, or None if it must be computed."""
    try:
        stamp = _file_signature(folder)
        known: Any = json.loads(_memo(folder).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(known, dict) or {name: known.get(name) for name in stamp} != stamp:
        return None
    return str(known["sha256"]) if "sha256" in known else None


def _memo(folder: Path) -> Path:
    return folder / f"{WEIGHTS}.sha256"


def _file_signature(folder: Path) -> dict[str, int]:
    stat = (folder / WEIGHTS).stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
