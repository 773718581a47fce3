"""`car bench listing`: what a million keys cost on their way into the queue."""

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cli.bench.figures import bar, show
from cli.bench.record import CompareFile, FailAbove, JsonFile, Record
from cli.errors import ProcessFailed

if TYPE_CHECKING:
    from redis import Redis

    from cli.bench.ground import Ground

_GOAL_DATABASE, _GOAL_REDIS = 60.0, 10.0
_COMMIT = 4_000


def listing(
    context: typer.Context,
    *,
    keys: Annotated[int, typer.Option(min=1000, help="Synthetic keys of one prefix.")] = 1_000_000,
    durable: Annotated[
        bool, typer.Option("--durable/--quick", help="PostgreSQL waits for the disk, as in production.")
    ] = True,
    json_file: JsonFile = None,
    compare: CompareFile = None,
    fail_above: FailAbove = None,
) -> None:
    """Measure the listing of a bucket into items: rows a second, memory of the lister and of Redis.

    The keys are made up, so no S3 server counts; the lister, PostgreSQL, Redis and the doorbell are real, and no
    worker empties the queue.
    """
    from cli.bench.ground import ground

    record = Record.begin(context, json_file, compare, fail_above)
    figures: dict[str, Any] = {"keys": keys, "durable": durable}
    with ground(durable=durable, which=("postgres", "redis")) as here:
        figures |= _list(here, keys)
    _print(figures)
    record.end(figures)


def _list(here: "Ground", keys: int) -> dict[str, Any]:
    from redis import Redis

    from car.bulk_source import BulkSource
    from cli.bench.noop import LABELS

    here.job(BulkSource.parse("s3://bench/frames/").to_json(), LABELS)
    with Redis.from_url(here.environment["CELERY_BROKER_URL"]) as redis:
        before = _used(redis)
        peak = before
        child = subprocess.Popen(  # noqa: S603 - this interpreter, our module
            [sys.executable, "-P", "-m", "cli.bench.lister", str(keys)],
            env={**os.environ, **here.environment, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        said: dict[str, Any] = {}
        with child, bar() as progress:
            task = progress.add_task("listing keys", total=keys)
            for line in child.stdout or ():
                said = json.loads(line)
                peak = max(peak, _used(redis))
                progress.update(task, completed=min(keys, said.get("commits", 0) * _COMMIT))
        if child.returncode or "items" not in said:
            raise ProcessFailed(f"the lister ended with exit code {child.returncode}; its error stands above")
        growth = (peak - before) / 2**20
        return said | {"redis_before_mb": before / 2**20, "redis_growth_mb": growth}


def _used(redis: "Redis") -> int:
    answer: Any = redis.info("memory")  # typed as if it might be awaited
    return int(answer["used_memory"])


def _print(figures: dict[str, Any]) -> None:
    from worker.queue import WINDOW

    rows = [
        ("rows/s", f"{figures['rows_per_second']:,.0f}", ""),
        ("seconds in all", f"{figures['seconds']:.1f}", ""),
        ("seconds in transactions", f"{figures['database_seconds']:.1f}", f"<= {_GOAL_DATABASE:g} a million"),
        ("seconds of ringing", f"{figures['ring_seconds']:.1f}", ""),
        ("lister, MiB before", f"{figures['lister_before_mb']:.0f}", ""),
        ("lister, MiB at most", f"{figures['lister_peak_mb']:.0f}", ""),
        ("Redis, MiB more at most", f"{figures['redis_growth_mb']:.2f}", f"<= {_GOAL_REDIS:g}"),
        ("messages waiting at most", f"{figures['most_messages_waiting']}", f"<= {WINDOW}"),
    ]
    show(Console(soft_wrap=True), f"{figures['items']:,} keys listed, {figures['rings']} commits", rows)
