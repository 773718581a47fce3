"""Lists synthetic keys through the real lister, in a process of its own whose memory can be told from others'.

Started by `car bench listing`; says in JSON lines on standard output how far it is, and at the end what it took.
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from cli.bench.figures import timed
from db.objects import Listed
from db.session import make_engine
from db.settings import EngineSettings
from worker.listing import list_sources
from worker.queue import Task, celery_app, ring

_PAGE = 1_000
_KEY = "year=2026/camera=07/frame-{:09d}.jpg"
"""About as long as keys are."""


@dataclass
class SyntheticKeys:
    """A bucket of `count` keys that nobody stored, as worker.listing sees it."""

    count: int
    seconds: float = 0.0
    """Spent here, not in the lister."""

    def page(self, bucket: str, prefix: str, *, after: str = "") -> list[Listed]:
        del bucket
        with timed() as spent:
            first = int(after[-13:-4]) + 1 if after else 0
            numbers = range(first, min(first + _PAGE, self.count))
            listed = [Listed(prefix + _KEY.format(number), f"{number:032x}", 100_000) for number in numbers]
        self.seconds += spent.seconds
        return listed

    def stat(self, bucket: str, key: str) -> Listed:
        """As a manifest of all keys, whose every line is one byte long."""
        del bucket
        return Listed(key, f"{self.count:032x}", self.count)

    def lines(self, bucket: str, key: str, *, after: int = 0) -> Iterator[tuple[int, str]]:
        del key
        for number in range(after, self.count):
            yield number + 1, f"s3://{bucket}/{_KEY.format(number)}"


@dataclass
class Bell:
    """The real doorbell, timed; it looks how many messages wait after each ring."""

    broker_url: str
    seconds: float = 0.0
    rings: int = 0
    most_waiting: int = 0
    _app: Any = field(init=False)
    _client: Any = field(init=False)

    def __post_init__(self) -> None:
        import redis

        self._app = celery_app(self.broker_url)
        self._client = redis.Redis.from_url(self.broker_url)

    def ring(self) -> None:
        with timed() as spent:
            if not ring(self._app, Task.SEGMENT):
                raise AssertionError("Redis did not answer")
        self.seconds += spent.seconds
        self.rings += 1
        self.most_waiting = max(self.most_waiting, self._client.llen("gpu"))


class DatabaseSeconds:
    """From each connection's check-out to its check-in: transactions whole, with their commits."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since = 0.0

    def out(self, connection: DBAPIConnection, entry: ConnectionPoolEntry, proxy: object) -> None:
        del connection, entry, proxy
        self._since = time.perf_counter()

    def back(self, connection: DBAPIConnection | None, entry: ConnectionPoolEntry) -> None:
        del connection, entry
        self.seconds += time.perf_counter() - self._since


def main(count: int) -> None:
    """List `count` keys for the one job that waits."""
    settings = EngineSettings.from_environment()
    engine = make_engine(settings.database_url.get_secret_value(), pool=1)
    database = DatabaseSeconds()
    event.listen(engine, "checkout", database.out)
    event.listen(engine, "checkin", database.back)
    keys, bell = SyntheticKeys(count), Bell(settings.celery_broker_url.get_secret_value())
    before = memory("VmRSS")
    commits = 0

    def found() -> None:
        nonlocal commits
        commits += 1
        bell.ring()
        typer.echo(json.dumps({"commits": commits}))

    begun = time.perf_counter()
    listed = list_sources(engine, keys, "bench", found=found)
    seconds = time.perf_counter() - begun
    figures = {
        "items": listed.items,
        "seconds": seconds,
        "rows_per_second": listed.items / seconds,
        "database_seconds": database.seconds,
        "keys_seconds": keys.seconds,
        "ring_seconds": bell.seconds,
        "rings": bell.rings,
        "most_messages_waiting": bell.most_waiting,
        "lister_before_mb": before,
        "lister_peak_mb": memory("VmHWM"),
    }
    typer.echo(json.dumps(figures))


def memory(field_: str) -> float:
    """MiB of this process by the name in /proc: VmRSS now, VmHWM at most. getrusage tells of the parent's too."""
    status = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith(f"{field_}:"))


if __name__ == "__main__":
    main(int(sys.argv[1]))
