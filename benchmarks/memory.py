"""`python -m benchmarks memory`: the peak memory of one image by stage, each setting in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.memory_worker import Models
from cli.commands.bench.display import measure_cases, number_table
from cli.commands.bench.options import BenchDevice, DeviceOption, JsonOption, SizesOption, parse_sizes, set_up_torch
from cli.commands.bench.report import Report
from cli.errors import ProcessFailedError

_GOAL_GIB = 8


@dataclass(frozen=True, kw_only=True)
class MemoryCost:
    """Bytes. The peak of a stage is that of the process during the stage, weights included."""

    width: int
    height: int
    words: int
    models: Models
    device: str
    idle_rss: int
    """Before anything is loaded: Python and its libraries."""
    peak_rss: Mapping[str, int]
    """By stage: models, texts, encode (f), recurrence, finishing (CRF and mask encoding)."""
    peak_cuda: Mapping[str, int] | None = None
    """torch.cuda.max_memory_allocated by stage; None on a CPU."""

    @property
    def highest_rss(self) -> int:
        return max(self.peak_rss.values())

    def to_json(self) -> dict[str, Any]:
        """Return all figures, the highest first."""
        return {"highest_rss": self.highest_rss} | asdict(self)


def memory(
    context: typer.Context,
    *,
    size: SizesOption = None,
    words: Annotated[list[int] | None, typer.Option(min=1, help="Size of the vocabulary; repeatable.")] = None,
    models: Annotated[
        Models, typer.Option(help="shallow: full width, but g and the text towers have two blocks.")
    ] = Models.FULL,
    device: DeviceOption = BenchDevice.CPU,
    finish: Annotated[bool, typer.Option("--finish/--no-finish", help="Include the CRF and mask encoding.")] = True,
    json_file: JsonOption = None,
) -> None:
    """Measure the peak memory of an image by stage where every word survives.

    Each size is measured with each number of words; the default is 1024x768 and 20.
    """
    set_up_torch(device, 1)
    report = Report.start(context, json_file, device=device)
    costs = measure_cases(
        {
            f"{width}x{height}, {count} words": partial(
                measure_memory, width, height, count, models, device.value, finish=finish
            )
            for width, height in parse_sizes(size or ["1024x768"])
            for count in words or [20]
        }
    )
    Console(soft_wrap=True).print(_table(costs))
    report.finish({"cases": {name: cost.to_json() for name, cost in costs.items()}})


def measure_memory(
    width: int,
    height: int,
    words: int,
    models: Models = Models.FULL,
    device: str = "cpu",
    *,
    finish: bool = True,
) -> MemoryCost:
    """Segment one image with a vocabulary whose words all survive, in a fresh process.

    `finish` False leaves out the CRF and the encoding of masks.

    Raises:
        ProcessFailedError: the process failed, for lack of memory for example.

    """
    arguments = json.dumps([width, height, words, models, device, finish])
    command = [sys.executable, "-m", "benchmarks.memory_worker", arguments]
    try:
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own module
    except subprocess.CalledProcessError as error:
        raise ProcessFailedError(f"{width}x{height}, {words} words: the measured process failed ({error})") from None
    figures = json.loads(done.stdout.splitlines()[-1])
    return MemoryCost(width=width, height=height, words=words, models=models, device=device, **figures)


def _table(costs: dict[str, MemoryCost]) -> Table:
    """A column for each stage; on CUDA a second line for the device's memory."""
    stages = list(next(iter(costs.values())).peak_rss)
    title = f"MiB; goal of 1,000 words: {_GOAL_GIB} GiB on a CPU"
    table = number_table("image", "before", *stages, "peak", title=title)
    for name, cost in costs.items():
        peaks = (_mib(cost.peak_rss[stage]) for stage in stages)
        table.add_row(name, _mib(cost.idle_rss), *peaks, f"[bold]{_mib(cost.highest_rss)}[/bold]")
        if cost.peak_cuda:
            peaks = (_mib(cost.peak_cuda.get(stage, 0)) for stage in stages)
            table.add_row("  on the device", "", *peaks, _mib(max(cost.peak_cuda.values())))
    return table


def _mib(value: int) -> str:
    return f"{value / 2**20:,.0f}"
