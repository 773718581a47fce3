"""Tables and progress bars of the benchmarks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from cli.commands.bench.report import peak_memory
from cli.output.terminal import Terminal

FigureT = TypeVar("FigureT")


@dataclass(frozen=True)
class Case:
    """The time of an image in one setting: seconds by stage, seconds of the reference, all figures for JSON."""

    stages: Mapping[str, float]
    reference_s: float
    figures: Mapping[str, Any]


def run_cases(measures: Mapping[str, Callable[[], Case]], reference: str, device: str) -> dict[str, Any]:
    """Measure each case, print a table, and return the figures by case and the peak memory."""
    cases = measure_cases(measures)
    stages = list(next(iter(cases.values())).stages)
    table = number_table("ms an image", *stages, "total", "images/s", reference, "times as fast")
    for name, case in cases.items():
        total = sum(case.stages.values())
        times = [f"{1000 * seconds:,.1f}" for seconds in (*case.stages.values(), total)]
        ratio = f"[bold]{case.reference_s / total:.2f}[/bold]"
        table.add_row(name, *times, f"{1 / total:.3g}", f"{1000 * case.reference_s:,.1f}", ratio)
    memory, console = peak_memory(device), Terminal(soft_wrap=True)
    console.print(table)
    console.print(f"peak memory {memory / 2**20:,.0f} MiB")
    return {"cases": {name: case.figures for name, case in cases.items()}, "peak_memory_bytes": memory}


def measure_cases(measures: Mapping[str, Callable[[], FigureT]]) -> dict[str, FigureT]:
    """Measure one case after the other below a progress bar."""
    figures: dict[str, FigureT] = {}
    with progress_bar() as progress:
        task = progress.add_task("", total=len(measures))
        for name, measure in measures.items():
            progress.update(task, description=name)
            figures[name] = measure()
            progress.advance(task)
    return figures


def number_table(first: str, *columns: str, title: str | None = None) -> Table:
    """Return a table whose columns after the first are numbers."""
    table = Table(first, title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def progress_bar() -> Progress:
    """Return a bar on stderr that disappears at its end."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn(show_speed=True))
    return Progress(*columns, TimeRemainingColumn(), console=Terminal(stderr=True), transient=True)
