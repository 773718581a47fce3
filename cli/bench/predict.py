"""`car bench predict`: what a user of Label Studio waits for, who sends a selection of tasks while no worker lives."""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cli.bench.figures import Row, show
from cli.bench.record import CompareFile, FailAbove, JsonFile, Record
from cli.bench.small_requests import FLOOR, SMALL_GOAL_MS

_GOAL_MS = 1000.0
_PHASES = {"new": "tasks that are new", "queued": "the same, still queued", "known": "the same, all known"}


def predict(
    context: typer.Context,
    *,
    tasks: Annotated[int, typer.Option(min=1, help="In one request.")] = 1000,
    projects: Annotated[int, typer.Option(min=1, help="Each with tasks of its own.")] = 5,
    region_bytes: Annotated[int, typer.Option(min=0, help="Of a known prediction's regions.")] = 12_000,
    samples: Annotated[
        int, typer.Option(min=10, help="Of each small request, alone and beside: more projects are sent until then.")
    ] = 1000,
    durable: Annotated[
        bool, typer.Option("--durable/--quick", help="PostgreSQL waits for the disk, as in production.")
    ] = True,
    json_file: JsonFile = None,
    compare: CompareFile = None,
    fail_above: FailAbove = None,
) -> None:
    """Measure /predict for many tasks at once, and /health and /setup asked beside it, over HTTP.

    The API is a process of its own, on engines of its own; no worker runs. Known predictions are written into the
    database, as a publisher would have rendered them. A server that does nothing is asked beside: what it takes, the
    machine takes.
    """
    from cli.bench.ground import ground
    from cli.bench.label_studio_load import measure

    record = Record.begin(context, json_file, compare, fail_above)
    figures: dict[str, Any] = {"tasks": tasks, "projects": projects, "durable": durable}
    with (
        Console(stderr=True).status("sending tasks"),
        ground(durable=durable, which=("postgres", "redis")) as here,
    ):
        figures |= measure(here, tasks=tasks, projects=projects, region_bytes=region_bytes, samples=samples)
    _print(figures)
    record.end(figures)


def _print(figures: dict[str, Any]) -> None:
    console = Console(soft_wrap=True)
    rows: list[Row] = []
    for phase, called in _PHASES.items():
        one = figures["predict_ms"][phase]
        rows.append((f"{called}: median ms", f"{one['median']:,.0f}", f"< {_GOAL_MS:,.0f}"))
        rows.append((f"{called}: slowest ms", f"{one['max']:,.0f}", f"< {_GOAL_MS:,.0f}"))
    rows.append(("bytes of an answer, all known", f"{figures['answer_bytes']:,}", ""))
    show(console, f"/predict of {figures['tasks']:,} tasks, no worker alive", rows)
    head = ("requests", "median", "99th percentile", "slowest", f"over {SMALL_GOAL_MS:g}")
    table = Table("", *head, title=f"small requests, ms; goal: < {SMALL_GOAL_MS:g}", title_justify="left")
    table.columns[0].no_wrap = True
    for when, called in (("idle", "alone"), ("beside", "beside /predict")):
        for path, one in figures["small_ms"][when].items():
            times = (f"{one[name]:.1f}" for name in ("median", "p99", "max"))
            name = path if path != FLOOR else "(nothing)"
            table.add_row(f"{name} {called}", f"{one['n']:,}", *times, f"{one['late']:,}")
    for column in table.columns[1:]:
        column.justify = "right"
    console.print(table)
