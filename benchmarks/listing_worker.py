"""The process that `python -m benchmarks listing` measures: it lists synthetic keys through the real lister.

It writes its progress to standard output as JSON lines; the last line holds the figures.
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import typer
from redis import Redis
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from benchmarks.display import timed
from car.object_store import KeyPage, ObjectInfo, ObjectStore
from db.session import make_engine
from db.settings import EngineSettings
from worker.celery_app import TaskName, make_celery_app, notify
from worker.listing import list_sources

_PAGE_SIZE = 1_000
_KEY = "year=2026/camera=07/frame-{:09d}.jpg"
"""As long as typical keys."""


@dataclass
class SyntheticKeys:
    """A bucket of `count` keys that exist only as names, with the methods that worker.listing uses."""

    count: int
    seconds: float = 0.0
    """Time spent here and not in the lister."""
    bucket: str = "results"
    prefix: str = "car/"

    def page(self, bucket: str, prefix: str, *, after: str = "", token: str = "") -> KeyPage:
        del bucket, token
        with timed() as spent:
            first = int(after[-13:-4]) + 1 if after else 0
            numbers = range(first, min(first + _PAGE_SIZE, self.count))
            listed = [ObjectInfo(prefix + _KEY.format(number), f"{number:032x}", 100_000) for number in numbers]
        self.seconds += spent.seconds
        return KeyPage(listed)

    def head(self, bucket: str, key: str) -> ObjectInfo:
        """A manifest of all keys, with one byte a line."""
        del bucket
        return ObjectInfo(key, f"{self.count:032x}", self.count)

    def lines(self, bucket: str, key: str, *, after: int = 0) -> Iterator[tuple[int, str]]:
        del key
        for number in range(after, self.count):
            yield number + 1, f"s3://{bucket}/{_KEY.format(number)}"


@dataclass
class TimedNotifier:
    """The real notification of workers, timed; after each it counts the messages that wait."""

    broker_url: str
    seconds: float = 0.0
    calls: int = 0
    most_waiting: int = 0
    _app: Any = field(init=False)
    _client: Any = field(init=False)

    def __post_init__(self) -> None:
        self._app = make_celery_app(self.broker_url)
        self._client = Redis.from_url(self.broker_url)

    def notify(self) -> None:
        with timed() as spent:
            if not notify(self._app, TaskName.SEGMENT):
                raise AssertionError("Redis did not answer")
        self.seconds += spent.seconds
        self.calls += 1
        self.most_waiting = max(self.most_waiting, self._client.llen("gpu"))


class DatabaseSeconds:
    """Seconds from each connection's checkout to its check-in: whole transactions with their commits."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since = 0.0

    def checkout(self, connection: DBAPIConnection, entry: ConnectionPoolEntry, proxy: object) -> None:
        del connection, entry, proxy
        self._since = time.perf_counter()

    def checkin(self, connection: DBAPIConnection | None, entry: ConnectionPoolEntry) -> None:
        del connection, entry
        self.seconds += time.perf_counter() - self._since


def main(count: int) -> None:
    """List `count` keys for the one job that waits."""
    settings = EngineSettings.from_environment()
    engine = make_engine(settings.database_url.get_secret_value(), pool=1)
    database = DatabaseSeconds()
    event.listen(engine, "checkout", database.checkout)
    event.listen(engine, "checkin", database.checkin)
    keys, notifier = SyntheticKeys(count), TimedNotifier(settings.celery_broker_url.get_secret_value())
    before = memory("VmRSS")
    commits = 0

    def on_commit() -> None:
        nonlocal commits
        commits += 1
        notifier.notify()
        typer.echo(json.dumps({"commits": commits}))

    begun = time.perf_counter()
    listed = list_sources(engine, cast("ObjectStore", keys), "bench", on_added=on_commit)
    seconds = time.perf_counter() - begun
    figures = {
        "items": listed.items,
        "seconds": seconds,
        "rows_per_second": listed.items / seconds,
        "database_seconds": database.seconds,
        "keys_seconds": keys.seconds,
        "notify_seconds": notifier.seconds,
        "notifications": notifier.calls,
        "most_messages_waiting": notifier.most_waiting,
        "lister_before_mb": before,
        "lister_peak_mb": memory("VmHWM"),
    }
    typer.echo(json.dumps(figures))


def memory(field_: str) -> float:
    """MiB of this process from /proc: VmRSS is current, VmHWM the peak. getrusage would include the parent's."""
    status = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith(f"{field_}:"))


if __name__ == "__main__":
    main(int(sys.argv[1]))
