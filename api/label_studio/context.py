"""What the routes of Label Studio share: connections, threads and counters of their own.

A body of thousands of tasks takes a thread a moment, and it must not be one that an annotator's request waits for. So
large bodies go through a narrow door, small ones through a wide one, /setup through its own, and /health through none.
Those of /predict with a hundred tasks and more go to a process of their own, where it is there. Whoever asks S3 does so
on threads for that alone, and holds none of the others meanwhile.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, TypeVar

import structlog
from fastapi import Depends, Request
from prometheus_client import CollectorRegistry
from prometheus_client import Counter as Metric
from sqlalchemy import Engine
from starlette.types import Receive

from api.concurrency import ConcurrencyLimiter, ThreadLimiter
from api.dependencies import Connections, from_store
from api.errors import OverloadedError, StoreTimeoutError
from api.label_studio.aside import Aside
from api.notifier import Notifier
from api.settings import ApiSettings
from car.label_studio.task_requests import TaskRequest, parse_tasks
from db.label_studio.projects import ResolvedProject
from db.objects import ObjectStore
from db.session import make_engine

LARGE = 2**18
"""Bytes of a body that is one of many tasks: some hundreds."""
LARGE_AT_ONCE = 2
_SMALL_AT_ONCE, _GLANCES_AT_ONCE, _STORE_REQUESTS = 8, 4, 8
_STATEMENT_MS = 20_000
"""Label Studio gives up on /predict after 100 s, and a browser may wait for it all that time."""
_LARGE_WAIT_SECONDS, _GLANCE_WAIT_SECONDS, _STORE_WAIT_SECONDS = 20.0, 2.0, 3.0
"""It gives up on /setup after 3 s."""
_POOL_SECONDS = 5.0

Answer = TypeVar("Answer")

log = structlog.get_logger("api.label_studio")


@dataclass(frozen=True, eq=False)
class BackendContext:
    settings: ApiSettings
    database: Engine
    glances: Engine
    """For `db.session.look`."""
    objects: ObjectStore
    slots: Metric
    aside: Aside
    """Started by `python -m api`; without it, large bodies are answered on threads."""
    notifier: Notifier
    _aside_limit: ConcurrencyLimiter
    _large: ThreadLimiter
    _small: ThreadLimiter
    _glances: ThreadLimiter
    _store: ThreadLimiter

    @classmethod
    def from_connections(cls, engines: Connections, registry: CollectorRegistry) -> "BackendContext":
        slots = Metric("car_predict_slots", "Tasks that /predict answered for", ("answer",), registry=registry)
        for answer in ("known", "empty", "queued", "failed"):
            slots.labels(answer)
        url = engines.settings.database_url.get_secret_value()
        # Its own, as many as its threads: requests of /api/v1 may hold all of theirs.
        threads = LARGE_AT_ONCE + _SMALL_AT_ONCE + _GLANCES_AT_ONCE
        return cls(
            settings=engines.settings,
            database=make_engine(url, pool=threads, pool_seconds=_POOL_SECONDS, statement_ms=_STATEMENT_MS),
            glances=make_engine(
                url, pool=_SMALL_AT_ONCE, pool_seconds=_POOL_SECONDS, statement_ms=_STATEMENT_MS, ping=False
            ),
            objects=engines.objects,
            slots=slots,
            aside=Aside(),
            notifier=engines.notifier,
            _aside_limit=ConcurrencyLimiter("large bodies", LARGE_AT_ONCE, wait_seconds=_LARGE_WAIT_SECONDS),
            _large=ThreadLimiter("large bodies", LARGE_AT_ONCE, wait_seconds=_LARGE_WAIT_SECONDS),
            _small=ThreadLimiter("requests of Label Studio", _SMALL_AT_ONCE),
            _glances=ThreadLimiter("short questions", _GLANCES_AT_ONCE, wait_seconds=_GLANCE_WAIT_SECONDS),
            _store=ThreadLimiter("Label Studio's objects", _STORE_REQUESTS, wait_seconds=_STORE_WAIT_SECONDS),
        )

    async def run(
        self,
        function: Callable[[], Answer],
        receive: Receive | None = None,
        *,
        size: int = 0,
        wait_seconds: float | None = None,
    ) -> Answer:
        """On a thread: that of a small body, or one of the few for bodies of such a size. Nothing that asks S3.

        Raises:
            OverloadedError, ClientDisconnect: see `ThreadLimiter.run`.

        """
        limit = self._large if size >= LARGE else self._small
        return await limit.run(function, receive, wait_seconds=wait_seconds)

    async def run_probe(self, function: Callable[[], Answer], receive: Receive | None = None) -> Answer:
        """On a thread that asks the database a little and S3 nothing: a bucket that hangs holds up no /setup."""
        return await self._glances.run(function, receive)

    async def from_store(self, function: Callable[[], Answer], receive: Receive | None = None) -> Answer:
        """On a thread for questions to S3 alone.

        Raises:
            OverloadedError, ClientDisconnect, StoreTimeoutError: see `Engines.from_store`.

        """
        return await from_store(self._store, function, receive)

    async def with_pictures_stored(
        self, known: ResolvedProject, tasks: Sequence[object], receive: Receive | None = None
    ) -> list[TaskRequest | None]:
        """What the tasks ask for, with the pictures written into them put into the bucket; without those, where S3
        does not answer in time.
        """
        wishes = partial(parse_tasks, known.plan, tasks, instance=known.row.instance)
        try:
            return await self.from_store(partial(wishes, objects=self.objects), receive)
        except (OverloadedError, StoreTimeoutError) as error:
            log.warning("pictures not stored", code=error.code)
            return await self.run(partial(wishes, objects=None), receive)

    @asynccontextmanager
    async def beside(self, receive: Receive) -> AsyncIterator[Aside]:
        """The process for large bodies, while it is given no more of them than it has threads."""
        async with self._aside_limit.slot(receive):
            yield self.aside

    def count(self, answers: Counter[str]) -> None:
        for answer, number in answers.items():
            self.slots.labels(answer).inc(number)

    def close(self) -> None:
        for limit in (self._large, self._small, self._glances, self._store):
            limit.close()
        self.aside.close()
        self.database.dispose()
        self.glances.dispose()


async def backend_context(request: Request) -> BackendContext:
    return request.app.state.face  # type: ignore[no-any-return] # starlette keeps no types of its state


BackendContextDep = Annotated[BackendContext, Depends(backend_context)]
