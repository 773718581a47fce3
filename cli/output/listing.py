"""Lists as a table or JSON, with a line on stderr when rows are missing."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from rich.console import RenderableType

from cli.options import OutputFormat
from cli.output.job_tables import print_table
from cli.output.terminal import echo

UNLIMITED = 2**31
"""The limit of --all."""


def print_list(
    rows: Callable[[int], Iterable[Mapping[str, Any]]],
    build_table: Callable[[Any], RenderableType],
    *,
    output: OutputFormat,
    limit: int,
    show_all: bool = False,
) -> None:
    """Print at most `limit` rows. `rows` returns at most the given number; one more is read to know whether it ends.

    Stderr says when nothing was found, and when rows were left out.
    """
    limit = UNLIMITED if show_all else limit
    iterator = iter(rows(limit + 1))
    shown = 0

    def limited() -> Iterator[Mapping[str, Any]]:
        nonlocal shown
        for row in islice(iterator, limit):
            shown += 1
            yield row

    if output is OutputFormat.JSONL:
        for row in limited():
            echo(json.dumps(row))
    elif output is OutputFormat.JSON:
        echo(json.dumps(list(limited())))
    elif table_rows := list(limited()):
        print_table(build_table(table_rows))
    if not shown:
        echo("nothing found", err=True)
    elif next(iterator, None) is not None:
        echo(f"{shown:,} shown; --limit or --all", err=True)
