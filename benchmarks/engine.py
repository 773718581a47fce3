"""`python -m benchmarks engine`: the cost of everything around the models, step by step and by thread."""

from typing import Any

import typer
from rich.console import Console

from benchmarks import engine_steps as steps
from benchmarks.cpu_time import CpuTime
from benchmarks.display import Row, print_with_goals
from cli.commands.bench.engine import BatchOption, ItemsOption, S3Option, measure_stores, print_rates, run_to_end
from cli.commands.bench.environment import BenchEnvironment, bench_environment
from cli.commands.bench.fake_model import LABELS
from cli.commands.bench.options import DurableOption, JsonOption
from cli.commands.bench.report import Report
from worker.pipeline.pipeline import Pipeline

_GOAL_ITEMS, _GOAL_MS = 500, 2.0
_SHOWN_MS = 0.001


def engine(
    context: typer.Context,
    *,
    items: ItemsOption = 5000,
    batch: BatchOption = 32,
    s3: S3Option = True,
    durable: DurableOption = True,
    json_file: JsonOption = None,
) -> None:
    """Measure the engine around the models step by step: a segmenter that does nothing, everything else real.

    Queue, claims, leases, decoding, look-ups, masks as objects, rows and commits are those of `car worker`. The
    segmenter gives every image the same two masks and six rows of history.
    """
    report = Report.start(context, json_file)
    figures: dict[str, Any] = {"items": items, "batch": batch, "durable": durable}
    with bench_environment(durable=durable, which=("postgres", "s3") if s3 else ("postgres",)) as environment:
        figures |= measure_stores(environment, items, batch, s3=s3, run=_run_counted)
        figures |= _steps(environment, items, batch)
    _print(figures)
    report.finish(figures)


def _run_counted(pipeline: Pipeline) -> dict[str, Any]:
    """Add the CPU time of this process by thread and of the engines' processes by program."""
    with CpuTime() as cpu:
        figures = run_to_end(pipeline)

    def per_item(seconds: dict[str, float]) -> dict[str, float]:
        return {name: round(1000 * used / figures["done"], 4) for name, used in seconds.items() if used > 0}

    return figures | {"cpu_ms_per_item": per_item(cpu.threads), "engines_cpu_ms_per_item": per_item(cpu.programs)}


def _steps(environment: BenchEnvironment, items: int, batch: int) -> dict[str, Any]:
    with Console(stderr=True).status("measuring steps"):
        rate = steps.listing_rate(environment, 20_000)
        # More than the turns need, and as many as a real queue has.
        environment.queue_images([f"s3://bench/steps/{number}" for number in range(max(items, 3_000))], LABELS)
        claim = {str(size): steps.claims(environment, size) for size in steps.CLAIM_SIZES}
        lookup = steps.lookups(environment, batch)
        heartbeat = steps.heartbeats(environment, 3 * batch)
        finish = {str(size): steps.finishes(environment, size) for size in sorted({32, batch})}
    return {
        "claim_ms_per_item": claim,
        "lookup_ms_per_item": lookup,
        "finish_ms_per_item": finish,
        "claim_and_finish_ms_per_item": claim["32"] + finish["32"],
        "heartbeat_ms": heartbeat,
        "listing_rows_per_second": rate,
    }


def _print(figures: dict[str, Any]) -> None:
    console = Console(soft_wrap=True)
    print_rates(figures)
    console.print(f"goal for new images: {_GOAL_ITEMS} items/s")
    rows: list[Row]
    rows = [(f"claim, {size} at once", f"{ms:.3f}", "") for size, ms in figures["claim_ms_per_item"].items()]
    rows.append(("look-up and reservation", f"{figures['lookup_ms_per_item']:.3f}", ""))
    rows += [
        (f"store and complete, {size} at once", f"{ms:.3f}", "") for size, ms in figures["finish_ms_per_item"].items()
    ]
    both = f"{figures['claim_and_finish_ms_per_item']:.3f}"
    rows.append(("claim, store and complete, 32 at once", both, f"<= {_GOAL_MS:g}"))
    rows.append(("heartbeat, ms in total", f"{figures['heartbeat_ms']:.1f}", ""))
    rows.append(("listing, rows/s", f"{figures['listing_rows_per_second']:,.0f}", ""))
    print_with_goals(console, "PostgreSQL, milliseconds an item", rows)
    for name in ("s3", "memory"):
        if not figures[name]:
            continue
        new = figures[name]["new"]
        used = [(f"thread {role}", ms) for role, ms in new["cpu_ms_per_item"].items()]
        used += new["engines_cpu_ms_per_item"].items()
        rows = [(consumer, f"{ms:.3f}", "") for consumer, ms in used if ms >= _SHOWN_MS]
        print_with_goals(console, f"CPU milliseconds a new item, objects in {name}", rows)
    console.print("Compare figures of one run: absolute times depend on the load of the machine.")
