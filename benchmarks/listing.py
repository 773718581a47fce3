"""`python -m benchmarks listing`: the cost of listing a million keys into the queue."""

import json
import os
import subprocess
import sys
from typing import Annotated, Any

import typer
from redis import Redis
from rich.console import Console

from benchmarks.display import print_with_goals
from car.bulk_source import BulkSource
from cli.commands.bench.display import progress_bar
from cli.commands.bench.environment import BenchEnvironment, bench_environment
from cli.commands.bench.fake_model import LABELS
from cli.commands.bench.options import DurableOption, JsonOption
from cli.commands.bench.report import Report
from cli.errors import ProcessFailedError
from worker.celery_app import MAX_PENDING

_GOAL_DATABASE, _GOAL_REDIS = 60.0, 10.0
_KEYS_PER_COMMIT = 4_000


def listing(
    context: typer.Context,
    *,
    keys: Annotated[int, typer.Option(min=1000, help="Synthetic keys of one prefix.")] = 1_000_000,
    durable: DurableOption = True,
    json_file: JsonOption = None,
) -> None:
    """Measure the listing of a bucket into items: rows a second, memory of the lister and of Redis.

    The keys are synthetic, so no S3 server is measured; the lister, PostgreSQL, Redis and the notifications are real,
    and no worker empties the queue.
    """
    report = Report.start(context, json_file)
    figures: dict[str, Any] = {"keys": keys, "durable": durable}
    with bench_environment(durable=durable, which=("postgres", "redis")) as environment:
        figures |= _list(environment, keys)
    rows = [
        ("rows/s", f"{figures['rows_per_second']:,.0f}", ""),
        ("seconds in total", f"{figures['seconds']:.1f}", ""),
        ("seconds in transactions", f"{figures['database_seconds']:.1f}", f"<= {_GOAL_DATABASE:g} a million"),
        ("seconds of notifying", f"{figures['notify_seconds']:.1f}", ""),
        ("lister before, MiB", f"{figures['lister_before_mb']:.0f}", ""),
        ("lister peak, MiB", f"{figures['lister_peak_mb']:.0f}", ""),
        ("growth of Redis, MiB", f"{figures['redis_growth_mb']:.2f}", f"<= {_GOAL_REDIS:g}"),
        ("waiting messages, at most", f"{figures['most_messages_waiting']}", f"<= {MAX_PENDING}"),
    ]
    title = f"{figures['items']:,} keys listed, {figures['notifications']} commits"
    print_with_goals(Console(soft_wrap=True), title, rows)
    report.finish(figures)


def _list(environment: BenchEnvironment, keys: int) -> dict[str, Any]:
    environment.create_job(BulkSource.parse("s3://bench/frames/").to_json(), LABELS)
    with Redis.from_url(environment.variables["CELERY_BROKER_URL"]) as redis:
        before = peak = _used_memory(redis)
        child = subprocess.Popen(  # noqa: S603 - this interpreter, our module
            [sys.executable, "-P", "-m", "benchmarks.listing_worker", str(keys)],
            env={**os.environ, **environment.variables, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        message: dict[str, Any] = {}
        with child, progress_bar() as progress:
            task = progress.add_task("listing keys", total=keys)
            for line in child.stdout or ():
                message = json.loads(line)
                peak = max(peak, _used_memory(redis))
                progress.update(task, completed=min(keys, message.get("commits", 0) * _KEYS_PER_COMMIT))
        if child.returncode or "items" not in message:
            raise ProcessFailedError(f"the lister ended with exit code {child.returncode}; its error is above")
        return message | {"redis_before_mb": before / 2**20, "redis_growth_mb": (peak - before) / 2**20}


def _used_memory(redis: Redis) -> int:
    answer: Any = redis.info("memory")  # its type allows an awaitable
    return int(answer["used_memory"])
