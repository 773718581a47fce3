"""`car bench engine`: the cost of everything around the models."""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cli.commands.bench.display import Row, print_with_goals, progress_bar
from cli.commands.bench.options import DurableOption, JsonOption
from cli.commands.bench.report import Report

if TYPE_CHECKING:
    from cli.commands.bench.environment import BenchEnvironment
    from worker.pipeline.types import Objects

_GOAL_ITEMS, _GOAL_MS = 500, 2.0
_PREFIX = "in/"
_SHOWN_MS = 0.001


def engine(
    context: typer.Context,
    *,
    items: Annotated[int, typer.Option(min=50, help="Number of images, all different.")] = 5000,
    batch: Annotated[int, typer.Option(min=1, max=256, help="Images that the model takes at once.")] = 32,
    s3: Annotated[bool, typer.Option("--s3/--no-s3", help="Also measure with a real S3 server.")] = True,
    durable: DurableOption = True,
    json_file: JsonOption = None,
) -> None:
    """Measure the engine around the models: a segmenter that does nothing, everything else real.

    Queue, claims, leases, decoding, look-ups, masks as objects, rows and commits are those of `car worker`. The
    segmenter gives every image the same two masks and six rows of history.
    """
    from cli.commands.bench.environment import bench_environment

    report = Report.start(context, json_file)
    figures: dict[str, Any] = {"items": items, "batch": batch, "durable": durable}
    with bench_environment(durable=durable, which=("postgres", "s3") if s3 else ("postgres",)) as environment:
        figures["memory"] = _with_memory(environment, items, batch)
        figures["s3"] = _with_s3(environment, items, batch) if s3 else None
        figures |= _steps(environment, items, batch)
    _print(figures)
    report.finish(figures)


def _with_memory(environment: "BenchEnvironment", items: int, batch: int) -> dict[str, Any]:
    from cli.commands.bench.fake_model import MemoryObjects, small_png

    objects = MemoryObjects()
    with progress_bar() as progress:
        for number in progress.track(range(items), description="drawing images"):
            objects.objects[f"{_PREFIX}{number}.png"] = small_png(number)
    return _new_then_known(environment, objects, [f"s3://memory/{name}" for name in objects.objects], batch, "memory")


def _with_s3(environment: "BenchEnvironment", items: int, batch: int) -> dict[str, Any]:
    from cli.commands.bench.fake_model import small_png
    from db.objects import ObjectStore

    objects = ObjectStore.of(environment.settings)
    objects.ensure_bucket()

    def upload(number: int) -> str:
        # Other images than those in memory, whose results are known by now.
        key = objects.put(f"{_PREFIX}{number}.png", small_png(-1 - number), "image/png")
        return f"s3://{objects.bucket}/{key}"

    with progress_bar() as progress, ThreadPoolExecutor(8) as pool:
        uris = list(progress.track(pool.map(upload, range(items)), total=items, description="uploading images"))
    return _new_then_known(environment, objects, uris, batch, "s3")


def _new_then_known(
    environment: "BenchEnvironment", objects: "Objects", uris: list[str], batch: int, name: str
) -> dict[str, Any]:
    from cli.commands.bench.engine_steps import run_pipeline

    with Console(stderr=True).status(f"objects in {name}: new images, then known ones"):
        return {
            case: run_pipeline(environment, objects, uris, batch=batch, name=f"{name}-{case}")
            for case in ("new", "known")
        }


def _steps(environment: "BenchEnvironment", items: int, batch: int) -> dict[str, Any]:
    from cli.commands.bench import engine_steps as steps
    from cli.commands.bench.fake_model import LABELS

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
    measured = [(name, figures[key]) for key, name in (("s3", "S3"), ("memory", "memory (no S3)")) if figures[key]]
    rows: list[Row] = []
    for name, cases in measured:
        rate = f"{cases['new']['items_per_second']:,.0f}"
        rows.append((f"objects in {name}, new images: items/s", rate, f">= {_GOAL_ITEMS}"))
        rows.append((f"objects in {name}, known images: items/s", f"{cases['known']['items_per_second']:,.0f}", ""))
    title = f"end to end, {figures['items']:,} items, fake segmenter, batch {figures['batch']}"
    print_with_goals(console, title, rows)
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
    for name, cases in measured:
        new = cases["new"]
        used = [(f"thread {role}", ms) for role, ms in new["cpu_ms_per_item"].items()]
        used += new["engines_cpu_ms_per_item"].items()
        rows = [(consumer, f"{ms:.3f}", "") for consumer, ms in used if ms >= _SHOWN_MS]
        print_with_goals(console, f"CPU milliseconds a new item, objects in {name}", rows)
    console.print("Compare figures of one run: absolute times depend on the load of the machine.")
