"""The report of a benchmark: its figures as JSON, with the command, the setting and the machine."""

import json
import os
import platform
import re
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
        cls,
        context: typer.Context,
        json_file: Path | None,
        *,
        device: str = "cpu",
        resolved: Mapping[str, Any] | None = None,
    ) -> "Report":
        """Describe the command that runs now, and check its output before anything is measured.

        `resolved` replaces options that were left to be chosen.

        Raises:
            OutputError: the folder of the file cannot be made.

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
            "setting": setting | dict(resolved or {}),
        }
        return cls(header, json_file)

    def finish(self, figures: Mapping[str, Any]) -> None:
        """Write the figures.

        Raises:
            OutputError: the file cannot be written.

        """
        if self.json_file is None:
            return
        try:
            self.json_file.write_text(json.dumps(self.header | dict(figures), indent=2, default=str) + "\n")
        except OSError as error:
            raise OutputError(f"{self.json_file} cannot be written: {error.strerror}") from None


def _command(context: typer.Context) -> str:
    """The command line without its output file and without secrets."""
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
            words += [f"{parameter.opts[0]} {one}" for one in (value if isinstance(value, list) else [value])]
    return " ".join(words)


def _machine(device: str) -> dict[str, Any]:
    """The hardware, libraries and load: absolute times of a loaded machine compare with nothing."""
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
        "torch": _torch_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none"


def _torch_version() -> str | None:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None
