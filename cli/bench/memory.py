"""`car bench memory`: the most memory that one picture takes, stage by stage."""

import subprocess
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.bench.figures import each
from cli.bench.options import OnDevice, Sizes, Where, parse_sizes, prepare
from cli.bench.record import CompareFile, FailAbove, JsonFile, Record
from cli.errors import ProcessFailed

if TYPE_CHECKING:
    from evaluation.memory_cost import MemoryCost

_GOAL_GIB = 8


class Pair(StrEnum):
    """evaluation.memory_cost.Models, which imports torch."""

    FULL = "full"
    SHALLOW = "shallow"
    TINY = "tiny"


def memory(
    context: typer.Context,
    *,
    size: Sizes = None,
    words: Annotated[list[int] | None, typer.Option(min=1, help="Of the vocabulary; repeatable.")] = None,
    models: Annotated[
        Pair, typer.Option(help="shallow: full width, g and text towers of two blocks, for many words on a CPU.")
    ] = Pair.FULL,
    device: OnDevice = Where.CPU,
    finish: Annotated[bool, typer.Option("--finish/--no-finish", help="With the CRF and the coding of masks.")] = True,
    json_file: JsonFile = None,
    compare: CompareFile = None,
    fail_above: FailAbove = None,
) -> None:
    """Measure the most memory that a picture takes, stage by stage, where every word survives.

    Each setting has a process of its own. Each size is measured with each number of words; 1024x768 and 20 if none
    is given.
    """
    prepare(device, 1)
    asked = [(wide, high, many) for wide, high in parse_sizes(size or ["1024x768"]) for many in words or [20]]
    names = [f"{wide}x{high}, {many} words" for wide, high, many in asked]
    record = Record.begin(context, json_file, compare, fail_above, device=device, cases=names, spread=("size", "words"))
    from evaluation.memory_cost import Models, measure_memory

    def measured(wide: int, high: int, many: int) -> "MemoryCost":
        try:
            return measure_memory(wide, high, many, Models(models.value), device.value, finish=finish)
        except subprocess.CalledProcessError as error:
            raise ProcessFailed(
                f"{wide}x{high}, {many} words: the process that was measured did not come to its end ({error})"
            ) from None

    found = each({name: partial(measured, *one) for name, one in zip(names, asked, strict=True)})
    Console(soft_wrap=True).print(_table(found))
    record.end({"cases": {name: cost.to_json() for name, cost in found.items()}})


def _table(found: "dict[str, MemoryCost]") -> Table:
    """A column a stage; on CUDA a second line for the device's memory."""
    stages = list(next(iter(found.values())).peak_rss)
    table = Table("picture", "before", *stages, "most", title=f"MiB; goal of 1,000 words: {_GOAL_GIB} GiB on a CPU")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, cost in found.items():
        highest = _mib(cost.highest_rss)
        table.add_row(
            name, _mib(cost.idle_rss), *(_mib(cost.peak_rss[one]) for one in stages), f"[bold]{highest}[/bold]"
        )
        if cost.peak_cuda:
            most = _mib(max(cost.peak_cuda.values()))
            table.add_row("  on the device", "", *(_mib(cost.peak_cuda.get(one, 0)) for one in stages), most)
    return table


def _mib(value: int) -> str:
    return f"{value / 2**20:,.0f}"
