"""/metrics: requests as they pass, and the queue as the database has it when somebody asks."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from threading import Lock

import structlog
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Engine
from starlette.types import Receive

from api.concurrency import ThreadLimiter
from car.errors import CarError
from db.queue import queue_metrics, workers
from db.session import transaction

_FRESH_SECONDS = 5.0
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

log = structlog.get_logger("api")
router = APIRouter()


class RequestMetrics:
    """Time and number of requests, by the route's template: a label of every address would have no end."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            "car_http_request_seconds",
            "Time to the end of the answer",
            ("method", "route", "status"),
            buckets=_BUCKETS,
            registry=registry,
        )

    def seen(self, method: str, route: str, status: int, seconds: float) -> None:
        known = method if method in ("GET", "POST", "DELETE", "HEAD", "PUT", "PATCH", "OPTIONS") else "other"
        self._seconds.labels(known, route, str(status)).observe(seconds)


@dataclass(frozen=True)
class _Snapshot:
    depths: list[queue_metrics.Depth]
    oldest: float
    workers: list[tuple[str, str, int]]
    """Name, queue and items finished, of each living worker."""


class QueueMetrics(Collector):
    """Asks the database at most every five seconds. One that does not answer leaves its gauges out, and says so."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = Lock()
        self._until = 0.0
        self._last: _Snapshot | None = None

    def collect(self) -> Iterable[Metric]:
        now = self._snapshot()
        up = GaugeMetricFamily("car_database_up", "1 where the database answered")
        up.add_metric([], float(now is not None))
        yield up
        if now is None:
            return
        depth = GaugeMetricFamily("car_items", "Items that wait or are in hand", labels=("state", "priority"))
        for one in now.depths:
            depth.add_metric([one.state, str(one.priority)], one.items)
        yield depth
        oldest = GaugeMetricFamily("car_oldest_item_wait_seconds", "Wait of the item that is next; 0 where none waits")
        oldest.add_metric([], now.oldest)
        yield oldest
        living = GaugeMetricFamily("car_workers", "Workers heard of in the last minute", labels=("queue",))
        for queue in sorted({queue for _, queue, _ in now.workers} | {"gpu", "io"}):
            living.add_metric([queue], sum(queue == one for _, one, _ in now.workers))
        yield living
        # By worker, for a sum would fall when one leaves, and a counter that falls counts as begun anew.
        finished = CounterMetricFamily("car_items_finished", "Items that ended", labels=("worker", "queue"))
        for name, queue, count in now.workers:
            finished.add_metric([name, queue], count)
        yield finished

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering asks no database."""
        return []

    def _snapshot(self) -> _Snapshot | None:
        with self._lock:
            if time.monotonic() >= self._until:
                self._last = self._ask()
                self._until = time.monotonic() + _FRESH_SECONDS
            return self._last

    def _ask(self) -> _Snapshot | None:
        try:
            with transaction(self._engine) as session:
                living = [(one.name, one.queue, one.finished) for one in workers.list_alive(session)]
                return _Snapshot(queue_metrics.depths(session), queue_metrics.oldest_wait(session), living)
        except CarError as error:
            log.warning("no figures from the database", code=error.code)
            return None


class MetricsPage:
    """The text of /metrics, written on a thread of its own: one that waits for the database waits there."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._threads = ThreadLimiter("metrics", 1)

    async def text(self, receive: Receive) -> bytes:
        return await self._threads.run(partial(generate_latest, self._registry), receive)

    def close(self) -> None:
        self._threads.close()


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    page: MetricsPage = request.app.state.metrics
    return Response(await page.text(request.receive), media_type=CONTENT_TYPE_LATEST)
