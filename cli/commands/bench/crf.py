"""`car bench crf`: the dense CRF beside pydensecrf."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.commands.bench.display import measure_cases, number_table
from cli.commands.bench.options import (
    BenchDevice,
    DeviceOption,
    JsonOption,
    SizesOption,
    ThreadsOption,
    TurnsOption,
    parse_sizes,
    set_up_torch,
)
from cli.commands.bench.report import Report

if TYPE_CHECKING:
    from evaluation.speed.crf import CrfCost

_GOAL_CUDA_MS = 15.0


def crf(
    context: typer.Context,
    *,
    size: SizesOption = None,
    labels: Annotated[
        list[int] | None, typer.Option(min=2, max=64, help="Labels including the background; repeatable.")
    ] = None,
    device: DeviceOption = BenchDevice.CPU,
    turns: TurnsOption = 3,
    threads: ThreadsOption = 1,
    json_file: JsonOption = None,
) -> None:
    """Compare the dense CRF with pydensecrf: time, agreement of labels, floor of the memory traffic.

    Each size is measured with each number of labels; the default is 512x512 and 6.
    """
    set_up_torch(device, threads)
    report = Report.start(context, json_file, device=device)
    from evaluation.speed.crf import measure_crf

    costs = measure_cases(
        {
            f"{width}x{height}, {count} labels": partial(measure_crf, width, height, count, device.value, turns)
            for width, height in parse_sizes(size or ["512x512"])
            for count in labels or [6]
        }
    )
    Console(soft_wrap=True).print(_table(costs, device))
    report.finish({"cases": {name: cost.to_json() for name, cost in costs.items()}})


def _table(costs: "dict[str, CrfCost]", device: BenchDevice) -> Table:
    title = f"seconds; goal on an H200 at 512x512: <= {_GOAL_CUDA_MS:g} ms"
    if device is BenchDevice.CPU:
        compiled = all(cost.arrays == "CompiledArrays" for cost in costs.values())
        title = f"CPU seconds, {'compiled kernels' if compiled else 'scipy: the kernels were not compiled'}"
    table = number_table("image", "pydensecrf", "lattice", "ratio", "same labels", "floor", "x floor", title=title)
    for name, cost in costs.items():
        ours, floor = cost.seconds["lattice"], cost.floor_seconds
        table.add_row(
            name,
            f"{cost.seconds['pydensecrf']:.3g}",
            f"{ours:.3g}",
            f"[bold]{cost.ratio:.2f}[/bold]",
            f"{cost.agreement:.3%}",
            f"{floor:.2g}",
            f"{ours / floor:.1f}",
        )
    return table
