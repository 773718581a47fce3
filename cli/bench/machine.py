"""Where something was measured: what must be the same for two runs to be compared, and what explains a difference."""

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

_FEATURES = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
    "avx_vnni",
    "asimd",
    "bf16",
    "sve",
)
"""Of a processor, those that matter to products of matrices."""
_CPUINFO = Path("/proc/cpuinfo")


def machine(device: str = "cpu") -> dict[str, Any]:
    """Figures of a busy machine are to be read as ratios, so the load before the run is told too.

    torch is imported for the name of a GPU alone.
    """
    processor, features = _processor()
    return {
        "cores": os.cpu_count(),
        "processor": processor,
        "features": features,
        "gpu": _gpu() if device == "cuda" else None,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "torch": _torch(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _processor() -> tuple[str, list[str]]:
    """Its name and those of its features that are told."""
    text = _CPUINFO.read_text() if _CPUINFO.exists() else ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    has = set(flags[1].split()) if flags else set()
    return name[1] if name else platform.processor() or platform.machine(), [one for one in _FEATURES if one in has]


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none"


def _torch() -> str | None:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None
