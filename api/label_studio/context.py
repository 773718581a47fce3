"""What the routes of Label Studio share: connections, threads and counters of their own.

A body of thousands of tasks keeps a thread busy for a while, and an annotator's request must not wait for it. Hence
large bodies have few threads, small ones more, /setup its own, and /health needs none. Requests to S3 have threads of
their own, and hold none of the others meanwhile.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, TypeVar

import structlog
from fastapi import Depends, Request
from prometheus_client import CollectorRegistry
from prometheus_client import Counter as Metric
from sqlalchemy import Engine
from starlette.types import Receive

from api.concurrency import StoreLimiter, ThreadLimiter
from api.dependencies import Connections
from api.errors import OverloadedError, StoreTimeoutError
from api.notifier import Notifier
from api.settings import ApiSettings
from car.label_studio.task_requests import TaskRequest, parse_tasks
from car.object_store import ObjectStore
from db.label_studio.projects import ResolvedProject
from db.session import make_engine

_LARGE_BODY = 2**18
"""Bytes: some hundreds of tasks."""
_LARGE_THREADS, _SMALL_THREADS, _PROBE_THREADS, _STORE_THREADS = 2, 8, 4, 8
_STATEMENT_MS = 20_000
"""Label Studio waits 100 s for /predict, and a browser may wait for it all that time."""
_LARGE_WAIT_SECONDS, _PROBE_WAIT_SECONDS = 20.0, 2.0
"""Label Studio waits 3 s for /setup."""
_POOL_SECONDS = 5.0

Result = TypeVar("Result")

log = structlog.get_logger("api.label_studio")


@dataclass(frozen=True, eq=False)
class BackendContext:
    settings: ApiSettings
    database: Engine
    probes: Engine
    """For `db.session.read_only`."""
    objects: ObjectStore
    predicted: Metric
    notifier: Notifier
    _large: ThreadLimiter
    _small: ThreadLimiter
    probe_limit: ThreadLimiter
    """For short database queries, so that a hanging S3 delays no /setup."""
    store_limit: StoreLimiter

    @classmethod
    def from_connections(cls, connections: Connections, registry: CollectorRegistry) -> "BackendContext":
        predicted = Metric("car_predict_slots", "Tasks in responses to /predict", ("answer",), registry=registry)
        for answer in ("known", "empty", "queued", "failed"):
            predicted.labels(answer)
        # Engines of its own, one connection per thread: requests to /api/v1 may hold all of theirs.
        engine = partial(
            make_engine,
            connections.settings.database_url.get_secret_value(),
            pool_seconds=_POOL_SECONDS,
            statement_ms=_STATEMENT_MS,
        )
        return cls(
            settings=connections.settings,
            database=engine(pool=_LARGE_THREADS + _SMALL_THREADS + _PROBE_THREADS),
            probes=engine(pool=_SMALL_THREADS, ping=False),
            objects=connections.objects,
            predicted=predicted,
            notifier=connections.notifier,
            _large=ThreadLimiter("large bodies", _LARGE_THREADS, wait_seconds=_LARGE_WAIT_SECONDS),
            _small=ThreadLimiter("requests of Label Studio", _SMALL_THREADS),
            probe_limit=ThreadLimiter("short queries", _PROBE_THREADS, wait_seconds=_PROBE_WAIT_SECONDS),
            store_limit=StoreLimiter("Label Studio's objects", _STORE_THREADS),
        )

    async def run(
        self,
        function: Callable[[], Result],
        receive: Receive | None = None,
        *,
        size: int = 0,
        wait_seconds: float | None = None,
    ) -> Result:
        """Run `function`, which must not read from S3, on a thread for bodies of `size` bytes. See `ThreadLimiter`."""
        limit = self._large if size >= _LARGE_BODY else self._small
        return await limit.run(function, receive, wait_seconds=wait_seconds)

    async def with_images_stored(
        self, project: ResolvedProject, tasks: Sequence[object], receive: Receive | None = None
    ) -> list[TaskRequest | None]:
        """Parse the tasks and put embedded images into the bucket. Without S3 those tasks become None."""
        parse = partial(parse_tasks, project.config, tasks, instance=project.row.instance)
        try:
            return await self.store_limit.fetch(partial(parse, objects=self.objects), receive)
        except (OverloadedError, StoreTimeoutError) as error:
            log.warning("images not stored", code=error.code)
            return await self.run(partial(parse, objects=None), receive)

    def close(self) -> None:
        for limit in (self._large, self._small, self.probe_limit, self.store_limit):
            limit.close()
        self.database.dispose()
        self.probes.dispose()


async def backend_context(request: Request) -> BackendContext:
    return request.app.state.backend  # type: ignore[no-any-return] # starlette's state is untyped


BackendContextDep = Annotated[BackendContext, Depends(backend_context)]
