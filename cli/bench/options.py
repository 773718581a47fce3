"""Options that several benchmarks have, and what they mean together."""

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from cli.errors import WrongUse


class Where(StrEnum):
    CPU = "cpu"
    CUDA = "cuda"


class Scale(StrEnum):
    FULL = "full"
    TINY = "tiny"


OnDevice = Annotated[Where, typer.Option("--device", help="Where the models compute.")]
Sizes = Annotated[list[str] | None, typer.Option("--size", help="WIDTHxHEIGHT of the picture; repeatable.")]
OfScale = Annotated[
    Scale, typer.Option("--models", help="full: the paper's architectures; tiny: to see in seconds that all works.")
]
Turns = Annotated[int, typer.Option(min=1, help="Measure so often, turn about; the least counts.")]
Threads = Annotated[int, typer.Option(min=1, help="More than 1 counts waiting threads as CPU time.")]


def parse_sizes(sizes: Sequence[str]) -> list[tuple[int, int]]:
    """(width, height) of each. Raises: typer.BadParameter."""
    return [_parse_size(size) for size in sizes]


def _parse_size(size: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{2,5})x(\d{2,5})", size)
    if match is None:
        raise typer.BadParameter(f"{size!r} is no size: write WIDTHxHEIGHT, such as 512x384")
    return int(match[1]), int(match[2])


def prepare(device: Where, threads: int) -> None:
    """Set torch up for what is asked.

    Raises:
        WrongUse: CUDA, and there is none.

    """
    import torch

    if device is Where.CUDA and not torch.cuda.is_available():
        raise WrongUse("--device cuda, and torch finds no CUDA device here; leave it out to measure on the CPU")
    torch.set_num_threads(threads)
