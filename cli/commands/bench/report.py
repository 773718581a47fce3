"""The report of a benchmark: its figures as JSON, with the command, the setting and the machine."""

import json
import os
import platform
import re
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import typer

from cli.errors import OutputError

SCHEMA = 1
"""Raised when the meaning of a figure changes."""

_NOT_SETTING = frozenset({"json_file", "database_url"})
_CPU_FEATURES = frozenset("avx2 avx512f avx512_bf16 avx512_fp16 amx_bf16 amx_int8 avx_vnni asimd bf16 sve".split())
"""Those that matter to matrix products."""


@dataclass(frozen=True)
class Report:
    """One run of one benchmark."""

    header: dict[str, Any]
    json_file: Path | None

    @classmethod
    def start(
        cls, context: typer.Context, json_file: Path | None, *, device: str = "cpu", **resolved: object
    ) -> "Report":
        """Describe the command that runs now, and check its output before anything is measured.

        `resolved` replaces options that were left to be chosen. Raises: OutputError, if the folder cannot be made.
        """
        if json_file is not None:
            try:
                json_file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"{json_file} cannot be written: {error.strerror}") from None
        setting = {name: value for name, value in context.params.items() if name not in _NOT_SETTING}
        header = {
            "schema": SCHEMA,
            "bench": context.info_name,
            "command": _command(context),
            "machine": _machine(device),
            "setting": setting | resolved,
        }
        return cls(header, json_file)

    def finish(self, figures: Mapping[str, Any]) -> None:
        """Write the figures. Raises: OutputError."""
        if self.json_file is None:
            return
        try:
            self.json_file.write_text(json.dumps(self.header | dict(figures), indent=2, default=str) + "\n")
        except OSError as error:
            raise OutputError(f"{self.json_file} cannot be written: {error.strerror}") from None


def peak_memory(device: str = "cpu") -> int:
    """Return the most memory so far in bytes: of this process, or of PyTorch on CUDA."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _command(context: typer.Context) -> str:
    """Return the command line without its output file and without secrets."""
    words = [context.command_path]
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name in _NOT_SETTING or source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[name]
        if isinstance(value, bool):
            words.append((parameter.opts if value else parameter.secondary_opts)[0])
        else:
            words += [f"{parameter.opts[0]} {item}" for item in (value if isinstance(value, list) else [value])]
    return " ".join(words)


def _machine(device: str) -> dict[str, Any]:
    """Return the hardware, libraries and load."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return {
        "cores": os.cpu_count(),
        "processor": model[1] if model else platform.processor() or platform.machine(),
        "features": sorted(_CPU_FEATURES & set(flags[1].split())) if flags else [],
        "gpu": _gpu() if device == "cuda" else None,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name()
