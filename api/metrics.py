"""/metrics: the requests of this process, and the queue as the database has it."""

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

from car.errors import CarError
from db.queue import queue_metrics, workers
from db.session import transaction

_FRESH_SECONDS = 5.0
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

log = structlog.get_logger("api")
router = APIRouter()


def request_histogram(registry: CollectorRegistry) -> Histogram:
    """Return time and number of requests by route template; labels of whole paths would be unbounded."""
    return Histogram(
        "car_http_request_seconds",
        "Time to the end of the response",
        ("method", "route", "status"),
        buckets=_BUCKETS,
        registry=registry,
    )


@dataclass(frozen=True)
class _Snapshot:
    depths: list[queue_metrics.Depth]
    oldest: float
    workers: list[tuple[str, str, int]]
    """Name, queue and finished items of each live worker."""


class QueueMetrics(Collector):
    """Queries the database at most every five seconds; without an answer only `car_database_up` is exported, as 0."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = Lock()
        self._until = 0.0
        self._last: _Snapshot | None = None

    def collect(self) -> Iterable[Metric]:
        snapshot = self._snapshot()
        up = GaugeMetricFamily("car_database_up", "1 if the database answered")
        up.add_metric([], float(snapshot is not None))
        yield up
        if snapshot is None:
            return
        depth = GaugeMetricFamily("car_items", "Items that are queued or running", labels=("state", "priority"))
        for entry in snapshot.depths:
            depth.add_metric([entry.state, str(entry.priority)], entry.items)
        yield depth
        oldest = GaugeMetricFamily("car_oldest_item_wait_seconds", "Wait of the next item; 0 if none waits")
        oldest.add_metric([], snapshot.oldest)
        yield oldest
        alive = GaugeMetricFamily("car_workers", "Workers with a heartbeat in the last minute", labels=("queue",))
        queues = [queue for _, queue, _ in snapshot.workers]
        for queue in sorted({*queues, "gpu", "io"}):
            alive.add_metric([queue], queues.count(queue))
        yield alive
        # By worker: a sum would fall when a worker leaves, which Prometheus takes for a restart.
        finished = CounterMetricFamily("car_items_finished", "Items finished", labels=("worker", "queue"))
        for name, queue, count in snapshot.workers:
            finished.add_metric([name, queue], count)
        yield finished

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering does not query the database."""
        return []

    def _snapshot(self) -> _Snapshot | None:
        with self._lock:
            if time.monotonic() >= self._until:
                self._last = self._query()
                self._until = time.monotonic() + _FRESH_SECONDS
            return self._last

    def _query(self) -> _Snapshot | None:
        try:
            with transaction(self._engine) as session:
                alive = [(worker.name, worker.queue, worker.finished) for worker in workers.list_alive(session)]
                return _Snapshot(queue_metrics.depths(session), queue_metrics.oldest_wait(session), alive)
        except CarError as error:
            log.warning("queue metrics unavailable", code=error.code)
            return None


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    # On a thread of its own, which alone waits for the database.
    state = request.app.state
    text = await state.metrics_limit.run(partial(generate_latest, state.metrics_registry), request.receive)
    return Response(text, media_type=CONTENT_TYPE_LATEST)
