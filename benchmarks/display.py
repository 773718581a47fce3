"""What the benchmarks of the service print and time."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console

from cli.commands.bench.display import number_table

Row = tuple[str, str, str]
"""Name, measured value, and goal where there is one."""


def print_with_goals(console: Console, title: str, rows: Iterable[Row]) -> None:
    table = number_table("", "measured", title=title)
    table.add_column("goal")
    for row in rows:
        table.add_row(*row)
    console.print(table)


@dataclass
class Elapsed:
    seconds: float = 0.0


@contextmanager
def timed() -> Iterator[Elapsed]:
    """Measure the wall time of the block; it is known when the block has ended."""
    elapsed, start = Elapsed(), time.perf_counter()
    try:
        yield elapsed
    finally:
        elapsed.seconds = time.perf_counter() - start
