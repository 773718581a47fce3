"""What the routes of Label Studio share: connections, threads and counters of their own.

A body of thousands of tasks takes a thread a moment, and it must not be one that an annotator's request waits for. So
large bodies go through a narrow door, small ones through a wide one, /setup through its own, and /health through none.
Those of /predict with a hundred tasks and more go to a process of their own, where it is there.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request
from prometheus_client import CollectorRegistry
from prometheus_client import Counter as Metric
from sqlalchemy import Engine

from api.dependencies import Engines
from api.label_studio.aside import Aside
from api.settings import ApiSettings
from db.objects import ObjectStore
from db.session import make_engine
from worker.queue import Task, ring

LARGE = 2**18
"""Bytes of a body that is one of many tasks: some hundreds."""
LARGE_AT_ONCE = 2
_SMALL_AT_ONCE, _GLANCES_AT_ONCE, _BELLS = 8, 4, 2
_STATEMENT_MS = 20_000
"""Label Studio gives up on /predict after 100 s, and a browser may wait for it all that time."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, eq=False)
class Face:
    settings: ApiSettings
    database: Engine
    glances: Engine
    """For `db.session.look`."""
    objects: ObjectStore
    slots: Metric
    aside: Aside
    """Started by `python -m api`; without it, large bodies are answered on threads."""
    _engines: Engines
    _large: CapacityLimiter
    _small: CapacityLimiter
    _glances: CapacityLimiter
    _bells: CapacityLimiter

    @classmethod
    def of(cls, engines: Engines, registry: CollectorRegistry) -> "Face":
        slots = Metric("car_predict_slots", "Tasks that /predict answered for", ("answer",), registry=registry)
        for answer in ("known", "empty", "queued", "failed"):
            slots.labels(answer)
        url = engines.settings.database_url.get_secret_value()
        # Its own, as many as its threads: requests of /api/v1 may hold all of theirs.
        threads = LARGE_AT_ONCE + _SMALL_AT_ONCE + _GLANCES_AT_ONCE
        return cls(
            settings=engines.settings,
            database=make_engine(url, pool=threads, statement_ms=_STATEMENT_MS),
            glances=make_engine(url, pool=_SMALL_AT_ONCE, statement_ms=_STATEMENT_MS, ping=False),
            objects=engines.objects,
            slots=slots,
            aside=Aside(),
            _engines=engines,
            _large=CapacityLimiter(LARGE_AT_ONCE),
            _small=CapacityLimiter(_SMALL_AT_ONCE),
            _glances=CapacityLimiter(_GLANCES_AT_ONCE),
            _bells=CapacityLimiter(_BELLS),
        )

    async def work(self, function: Callable[[], Answer], *, size: int = 0) -> Answer:
        """On a thread: that of a small body, or one of the few for bodies of such a size."""
        return await to_thread.run_sync(function, limiter=self._large if size >= LARGE else self._small)

    async def glance(self, function: Callable[[], Answer]) -> Answer:
        """On a thread that asks the database a little and S3 nothing: a bucket that hangs holds up no /setup."""
        return await to_thread.run_sync(function, limiter=self._glances)

    async def ring(self, tasks: set[Task]) -> None:
        """Once the answer is sent and the rows are committed. A Redis that is away costs nothing but time: `reap` rings
        for whatever waits.
        """
        for task in sorted(tasks):
            await to_thread.run_sync(
                partial(ring, self._engines.bell, task), limiter=self._bells, abandon_on_cancel=True
            )

    def count(self, answers: Counter[str]) -> None:
        for answer, number in answers.items():
            self.slots.labels(answer).inc(number)

    def close(self) -> None:
        self.aside.close()
        self.database.dispose()
        self.glances.dispose()


async def face(request: Request) -> Face:
    return request.app.state.face  # type: ignore[no-any-return] # starlette keeps no types of its state


FaceDep = Annotated[Face, Depends(face)]
