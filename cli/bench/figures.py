"""Figures as every benchmark shows them: a goal beside each, and all of them in one JSON file."""

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from cli.errors import OutputError

JsonFile = Annotated[Path | None, typer.Option("--json", help="Write every figure to this file.")]

Row = tuple[str, str, str]
"""What, how much, and the goal where there is one."""


def write_json(json_file: Path | None, figures: dict[str, Any]) -> None:
    """Raises: OutputError, where the file cannot be written."""
    if json_file is None:
        return
    try:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(figures, indent=2) + "\n")
    except OSError as error:
        raise OutputError(f"{json_file} cannot be written: {error.strerror}") from None


def show(console: Console, title: str, rows: Iterable[Row]) -> None:
    table = Table("", "measured", "goal", title=title, title_justify="left")
    table.columns[1].justify = "right"
    for row in rows:
        table.add_row(*row)
    console.print(table)


def bar() -> Progress:
    """On the terminal's other stream, gone when it is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn(show_speed=True))
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)


def machine() -> dict[str, Any]:
    """Where it was measured: figures of a busy machine are to be read as ratios."""
    return {"cores": os.cpu_count(), "load_before": round(os.getloadavg()[0], 2)}


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
