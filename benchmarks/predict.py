"""`python -m benchmarks predict`: how long a user of Label Studio waits for predictions of many tasks."""

from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.display import Row, print_with_goals
from benchmarks.predict_load import measure
from benchmarks.small_requests import FLOOR, SMALL_GOAL_MS
from cli.commands.bench.display import number_table
from cli.commands.bench.environment import bench_environment
from cli.commands.bench.options import DurableOption, JsonOption
from cli.commands.bench.report import Report

_GOAL_MS = 1000.0
_PHASES = {"new": "new tasks", "queued": "the same, queued", "known": "the same, all known"}


def predict(
    context: typer.Context,
    *,
    tasks: Annotated[int, typer.Option(min=1, help="Tasks in one request.")] = 1000,
    projects: Annotated[int, typer.Option(min=1, help="Each with tasks of its own.")] = 5,
    region_bytes: Annotated[int, typer.Option(min=0, help="Size of a known prediction's regions.")] = 12_000,
    samples: Annotated[
        int, typer.Option(min=10, help="Of each small request, alone and during /predict; adds projects if needed.")
    ] = 1000,
    durable: DurableOption = True,
    json_file: JsonOption = None,
) -> None:
    """Measure /predict of many tasks over HTTP, and /health and /setup at the same time.

    The API is a process of its own with engines of its own; no worker runs. Known predictions are written to the
    database as the publisher renders them. A server that does nothing shows the latency of the machine itself.
    """
    report = Report.start(context, json_file)
    figures: dict[str, Any] = {"tasks": tasks, "projects": projects, "durable": durable}
    with (
        Console(stderr=True).status("sending tasks"),
        bench_environment(durable=durable, which=("postgres", "redis")) as environment,
    ):
        figures |= measure(environment, tasks=tasks, projects=projects, region_bytes=region_bytes, samples=samples)
    _print(figures)
    report.finish(figures)


def _print(figures: dict[str, Any]) -> None:
    console = Console(soft_wrap=True)
    rows: list[Row] = []
    for phase, name in _PHASES.items():
        times = figures["predict_ms"][phase]
        rows.append((f"{name}: median ms", f"{times['median']:,.0f}", f"< {_GOAL_MS:,.0f}"))
        rows.append((f"{name}: slowest ms", f"{times['max']:,.0f}", f"< {_GOAL_MS:,.0f}"))
    rows.append(("bytes of a response, all known", f"{figures['answer_bytes']:,}", ""))
    print_with_goals(console, f"/predict of {figures['tasks']:,} tasks without a worker", rows)
    columns = ("requests", "median", "99th percentile", "slowest", f"over {SMALL_GOAL_MS:g}")
    table = number_table("", *columns, title=f"small requests, ms; goal: < {SMALL_GOAL_MS:g}")
    table.columns[0].no_wrap = True
    for when, name in (("idle", "alone"), ("beside", "during /predict")):
        for path, latency in figures["small_ms"][when].items():
            times = (f"{latency[figure]:.1f}" for figure in ("median", "p99", "max"))
            label = path if path != FLOOR else "(server that does nothing)"
            table.add_row(f"{label} {name}", f"{latency['n']:,}", *times, f"{latency['late']:,}")
    console.print(table)
