"""`car bench crf`: the dense CRF over a lattice of our own beside pydensecrf."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.bench.figures import each
from cli.bench.options import OnDevice, Sizes, Threads, Turns, Where, parse_sizes, prepare
from cli.bench.plot import Bar, PlotFile, draw
from cli.bench.record import CompareFile, FailAbove, JsonFile, Record

if TYPE_CHECKING:
    from evaluation.crf_cost import CrfCost

_GOAL_CUDA_MS = 15.0


def crf(
    context: typer.Context,
    *,
    size: Sizes = None,
    labels: Annotated[list[int] | None, typer.Option(min=2, max=64, help="With the background; repeatable.")] = None,
    device: OnDevice = Where.CPU,
    turns: Turns = 3,
    threads: Threads = 1,
    plot: PlotFile = None,
    json_file: JsonFile = None,
    compare: CompareFile = None,
    fail_above: FailAbove = None,
) -> None:
    """Compare the dense CRF with pydensecrf: time, agreement of labels, floor of its memory traffic.

    Each size is measured with each number of labels, 512x512 and 6 if none is given.
    """
    prepare(device, threads)
    asked = [(wide, high, many) for wide, high in parse_sizes(size or ["512x512"]) for many in labels or [6]]
    names = [f"{wide}x{high}, {many} labels" for wide, high, many in asked]
    record = Record.begin(
        context, json_file, compare, fail_above, device=device, cases=names, spread=("size", "labels")
    )
    from evaluation.crf_cost import measure_crf

    found = each(
        {name: partial(measure_crf, *one, device.value, turns) for name, one in zip(names, asked, strict=True)}
    )
    Console(soft_wrap=True).print(_table(found, device))
    if plot is not None:
        draw(plot, [(name, _bars(cost)) for name, cost in found.items()], "seconds a picture")
    record.end({"cases": {name: cost.to_json() for name, cost in found.items()}})


def _table(found: "dict[str, CrfCost]", device: Where) -> Table:
    title = f"seconds; goal on an H200 at 512x512: <= {_GOAL_CUDA_MS:g} ms"
    if device is Where.CPU:
        compiled = all(cost.arrays == "CompiledArrays" for cost in found.values())
        title = f"CPU seconds, {'compiled kernels' if compiled else 'scipy: the kernels were not compiled'}"
    table = Table("picture", "pydensecrf", "lattice", "ratio", "same labels", "floor", "x floor", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, cost in found.items():
        ours, floor = cost.seconds["lattice"], cost.floor_seconds
        table.add_row(
            name,
            f"{cost.seconds['pydensecrf']:.3g}",
            f"{ours:.3g}",
            f"[bold]{cost.ratio:.2f}[/bold]",
            f"{cost.agreement:.3%}",
            f"{floor:.2g}" if floor else "",
            f"{ours / floor:.1f}" if floor else "",
        )
    return table


def _bars(cost: "CrfCost") -> list[Bar]:
    """pydensecrf, the lattice in all with its floor, and its parts."""
    return [
        Bar(name, seconds, cost.floor_seconds if name == "lattice" else None) for name, seconds in cost.seconds.items()
    ]
