"""`car bench engine`: the measured cost of everything around the model."""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cli.bench.figures import Row, bar, show
from cli.bench.record import CompareFile, FailAbove, JsonFile, Record

if TYPE_CHECKING:
    from cli.bench.ground import Ground
    from worker.pipeline.work import Objects

_GOAL_ITEMS, _GOAL_MS = 500, 2.0
_PREFIX = "in/"
_SHOWN_MS = 0.001


def engine(
    context: typer.Context,
    *,
    items: Annotated[int, typer.Option(min=50, help="Pictures, each another one.")] = 5000,
    batch: Annotated[int, typer.Option(min=1, max=256, help="Pictures the model would take at once.")] = 32,
    s3: Annotated[bool, typer.Option("--s3/--no-s3", help="Also with a real S3 server, not in memory alone.")] = True,
    durable: Annotated[
        bool, typer.Option("--durable/--quick", help="PostgreSQL waits for the disk, as in production.")
    ] = True,
    json_file: JsonFile = None,
    compare: CompareFile = None,
    fail_above: FailAbove = None,
) -> None:
    """Measure the engine around the model: a segmenter that does nothing, everything else real.

    Queue, claims, leases, decoding, look-ups, masks as objects, rows and commits are those of `car worker`. The
    segmenter gives every picture the same two masks and six rows of history.
    """
    from cli.bench.ground import ground

    record = Record.begin(context, json_file, compare, fail_above)
    figures: dict[str, Any] = {"items": items, "batch": batch, "durable": durable}
    which = ("postgres", "s3") if s3 else ("postgres",)
    with ground(durable=durable, which=which) as here:
        figures |= {"memory": _in_memory(here, items, batch), "s3": _in_s3(here, items, batch) if s3 else None}
        figures |= _steps(here, items, batch)
    _print(figures)
    record.end(figures)


def _in_memory(here: "Ground", items: int, batch: int) -> dict[str, Any]:
    from cli.bench.noop import MemoryObjects, picture

    objects = MemoryObjects()
    uris = []
    with bar() as progress:
        for number in progress.track(range(items), description="painting pictures"):
            objects.kept[f"{_PREFIX}{number}.png"] = picture(number)
            uris.append(f"s3://memory/{_PREFIX}{number}.png")
    return _flows(here, objects, uris, batch, "memory")


def _in_s3(here: "Ground", items: int, batch: int) -> dict[str, Any]:
    from cli.bench.noop import picture
    from db.objects import ObjectStore

    objects = ObjectStore.of(here.settings)
    objects.ensure_bucket()

    def upload(number: int) -> str:
        # Other pictures than those in memory, whose results are known by now.
        return f"s3://{objects.bucket}/{objects.put(f'{_PREFIX}{number}.png', picture(-1 - number), 'image/png')}"

    with bar() as progress, ThreadPoolExecutor(8) as pool:
        uploads = pool.map(upload, range(items))
        uris = list(progress.track(uploads, total=items, description="uploading pictures"))
    return _flows(here, objects, uris, batch, "s3")


def _flows(here: "Ground", objects: "Objects", uris: list[str], batch: int, name: str) -> dict[str, Any]:
    from cli.bench.engine_costs import flow

    with Console(stderr=True).status(f"labeling, objects in {name}: every picture new, then every one known"):
        new = flow(here, objects, uris, batch=batch, name=f"{name}-new")
        known = flow(here, objects, uris, batch=batch, name=f"{name}-known")
    return {"new": new.to_json(), "known": known.to_json()}


def _steps(here: "Ground", items: int, batch: int) -> dict[str, Any]:
    from cli.bench import engine_costs as costs
    from cli.bench.noop import LABELS

    with Console(stderr=True).status("measuring steps"):
        rate = costs.listing_rate(here, 20_000)
        # More than the turns take, and as many as a real queue has.
        here.queue([f"s3://bench/steps/{number}" for number in range(max(items, 3_000))], LABELS)
        claim = {str(size): costs.claims(here, size) for size in costs.CLAIMS}
        lookup = costs.lookups(here, batch)
        heartbeat = costs.heartbeats(here, 3 * batch)
        finish = {str(size): costs.finishes(here, size) for size in sorted({32, batch})}
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
    goal = f">= {_GOAL_ITEMS}"
    rows: list[Row] = []
    for name, called in (("s3", "objects in S3"), ("memory", "objects in memory: no S3 at all")):
        if figures[name]:
            new, known = figures[name]["new"], figures[name]["known"]
            rows.append((f"{called}, new pictures: items/s", f"{new['items_per_second']:,.0f}", goal))
            rows.append((f"{called}, known pictures: items/s", f"{known['items_per_second']:,.0f}", ""))
    show(console, f"end to end, {figures['items']:,} items, no-op segmenter, batch {figures['batch']}", rows)
    rows = [(f"claim, {size} at once", f"{ms:.3f}", "") for size, ms in figures["claim_ms_per_item"].items()]
    rows.append(("look-up and reservation", f"{figures['lookup_ms_per_item']:.3f}", ""))
    rows += [
        (f"store and finish, {size} at once", f"{ms:.3f}", "") for size, ms in figures["finish_ms_per_item"].items()
    ]
    rows.append(("claim + finish, 32 at once", f"{figures['claim_and_finish_ms_per_item']:.3f}", f"<= {_GOAL_MS:g}"))
    show(console, "PostgreSQL, milliseconds an item", rows)
    others = [("heartbeat, ms", f"{figures['heartbeat_ms']:.1f}", "")]
    show(console, "", [*others, ("listing into items, rows/s", f"{figures['listing_rows_per_second']:,.0f}", "")])
    for name in ("s3", "memory"):
        if figures[name]:
            _print_cpu(console, name, figures[name]["new"])
    console.print("A lone figure of a busy machine says little: compare those of one run.")


def _print_cpu(console: Console, name: str, new: dict[str, Any]) -> None:
    rows = [(f"thread {role}", f"{ms:.3f}", "") for role, ms in new["cpu_ms_per_item"].items() if ms >= _SHOWN_MS]
    rows += [(program, f"{ms:.3f}", "") for program, ms in new["engines_cpu_ms_per_item"].items() if ms >= _SHOWN_MS]
    show(console, f"CPU milliseconds a new item, objects in {name}", rows)
