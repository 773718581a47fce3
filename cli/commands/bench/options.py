"""Options that several benchmarks share."""

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.errors import UsageError


class BenchDevice(StrEnum):
    CPU = "cpu"
    CUDA = "cuda"


class ModelSize(StrEnum):
    FULL = "full"
    TINY = "tiny"


DeviceOption = Annotated[BenchDevice, typer.Option("--device", help="Where the models run.")]
SizesOption = Annotated[list[str] | None, typer.Option("--size", help="Image size, WIDTHxHEIGHT; repeatable.")]
ModelSizeOption = Annotated[
    ModelSize, typer.Option("--models", help="full: the paper's architectures; tiny: a quick check.")
]
TurnsOption = Annotated[int, typer.Option(min=1, help="Repeat the measurement; the least counts.")]
ThreadsOption = Annotated[int, typer.Option(min=1, help="CPU threads; more than 1 counts waiting threads as CPU time.")]
DurableOption = Annotated[
    bool, typer.Option("--durable/--quick", help="PostgreSQL waits for the disk at each commit, as in production.")
]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")]


def parse_sizes(sizes: Sequence[str]) -> list[tuple[int, int]]:
    """Return (width, height) of each size. Raises: typer.BadParameter."""
    parsed = []
    for size in sizes:
        match = re.fullmatch(r"(\d{2,5})x(\d{2,5})", size)
        if match is None:
            raise typer.BadParameter(f"{size!r} is not a size: write WIDTHxHEIGHT, such as 512x384")
        parsed.append((int(match[1]), int(match[2])))
    return parsed


def set_up_torch(device: BenchDevice, threads: int) -> None:
    """Set torch's threads and check the device. Raises: UsageError, for cuda on a machine without CUDA."""
    import torch

    if device is BenchDevice.CUDA and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no CUDA device here; leave the option out to measure on the CPU")
    torch.set_num_threads(threads)
