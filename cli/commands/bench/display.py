"""Tables and progress bars of the benchmarks."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

Row = tuple[str, str, str]
"""Name, measured value, and goal where there is one."""

FigureT = TypeVar("FigureT")


def print_with_goals(console: Console, title: str, rows: Iterable[Row]) -> None:
    table = number_table("", "measured", title=title)
    table.add_column("goal")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def number_table(first: str, *columns: str, title: str | None = None) -> Table:
    """A table whose columns after the first are numbers."""
    table = Table(first, title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def measure_cases(cases: Mapping[str, Callable[[], FigureT]]) -> dict[str, FigureT]:
    """Measure one case after the other under a progress bar."""
    figures: dict[str, FigureT] = {}
    with progress_bar() as progress:
        task = progress.add_task("", total=len(cases))
        for name, measure in cases.items():
            progress.update(task, description=name)
            figures[name] = measure()
            progress.advance(task)
    return figures


def progress_bar() -> Progress:
    """A bar on stderr that disappears at its end."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn(show_speed=True))
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)


@dataclass
class Elapsed:
    seconds: float = 0.0


@contextmanager
def timed() -> Iterator[Elapsed]:
    """Measure the wall time of the block; it is known when the block has ended."""
    elapsed, begun = Elapsed(), time.perf_counter()
    try:
        yield elapsed
    finally:
        elapsed.seconds = time.perf_counter() - begun
