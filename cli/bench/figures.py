"""Figures as every benchmark shows them: a goal beside each."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

Row = tuple[str, str, str]
"""What, how much, and the goal where there is one."""


def show(console: Console, title: str, rows: Iterable[Row]) -> None:
    table = Table("", "measured", "goal", title=title, title_justify="left")
    table.columns[1].justify = "right"
    for row in rows:
        table.add_row(*row)
    console.print(table)


C = TypeVar("C")


def each(cases: Mapping[str, Callable[[], C]]) -> dict[str, C]:
    """Measure one after the other, with a bar that counts them."""
    found: dict[str, C] = {}
    with bar() as progress:
        task = progress.add_task("", total=len(cases))
        for name, measure in cases.items():
            progress.update(task, description=name)
            found[name] = measure()
            progress.advance(task)
    return found


def bar() -> Progress:
    """On the terminal's other stream, gone when it is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn(show_speed=True))
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)


@dataclass
class Spent:
    seconds: float = 0.0


@contextmanager
def timed() -> Iterator[Spent]:
    """How long the block took, told when it has ended."""
    spent, begun = Spent(), time.perf_counter()
    try:
        yield spent
    finally:
        spent.seconds = time.perf_counter() - begun
