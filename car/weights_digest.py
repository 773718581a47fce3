"""What names a model: the sha256 of its safetensors. Here, so that the web process can tell it without torch."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

WEIGHTS = "model.safetensors"
_READ = 1 << 20


def weights_digest(folder: Path) -> str:
    """Sha256 (hex) of the folder's safetensors, remembered beside it as long as size and time of the file stand."""
    if (known := remembered_digest(folder)) is not None:
        return known
    sha = hashlib.sha256()
    with (folder / WEIGHTS).open("rb") as stream:
        stamp = _stamp(folder)
        while chunk := stream.read(_READ):
            sha.update(chunk)
    with contextlib.suppress(OSError):  # a read-only folder costs the time of hashing, nothing else
        _memo(folder).write_text(json.dumps(stamp | {"sha256": sha.hexdigest()}))
    return sha.hexdigest()


def remembered_digest(folder: Path) -> str | None:
    """The digest, where it was written down for the very file that is there now; None where it must be computed."""
    try:
        stamp = _stamp(folder)
        known: Any = json.loads(_memo(folder).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(known, dict) or {name: known.get(name) for name in stamp} != stamp:
        return None
    return str(known["sha256"]) if "sha256" in known else None


def _memo(folder: Path) -> Path:
    return folder / f"{WEIGHTS}.sha256"


def _stamp(folder: Path) -> dict[str, int]:
    stat = (folder / WEIGHTS).stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
