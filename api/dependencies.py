"""What handlers are given: the engines of this process, one transaction a request, the doorbell."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import BoundedSemaphore
from typing import Annotated

import structlog
from celery import Celery
from fastapi import BackgroundTasks, Depends, Query, Request
from pydantic import AfterValidator
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from api.settings import ApiSettings
from db.objects import ObjectStore
from db.session import make_engine, transaction
from worker.queue import Task, celery_app, ring

_PROBE_MS = 3_000

log = structlog.get_logger("api")


@dataclass(frozen=True, eq=False)
class Engines:
    """Connections of this process, each opened when it is first used."""

    settings: ApiSettings
    database: Engine
    probes: Engine
    """For /readyz and /metrics, so that they answer while requests hold every connection."""
    objects: ObjectStore
    bell: Celery
    drawing: BoundedSemaphore = field(repr=False)
    """A full-size mask may take tens of megabytes: only so many are drawn at a time."""

    @classmethod
    def of(cls, settings: ApiSettings) -> "Engines":
        url = settings.database_url.get_secret_value()
        return cls(
            settings=settings,
            database=make_engine(url, pool=settings.database_pool),
            probes=make_engine(url, pool=2, statement_ms=_PROBE_MS),
            objects=ObjectStore.of(settings),
            bell=celery_app(settings.celery_broker_url.get_secret_value()),
            drawing=BoundedSemaphore(settings.drawings),
        )

    def close(self) -> None:
        self.database.dispose()
        self.probes.dispose()
        self.bell.close()


def engines(request: Request) -> Engines:
    return request.app.state.engines  # type: ignore[no-any-return] # starlette keeps no types of its state


EnginesDep = Annotated[Engines, Depends(engines)]


def session(given: EnginesDep) -> Iterator[Session]:
    """One transaction, committed after the handler and before its answer is sent: who reads "202" finds the row."""
    with transaction(given.database) as opened:
        yield opened


SessionDep = Annotated[Session, Depends(session, scope="function")]


def doorbell(given: EnginesDep, after: BackgroundTasks) -> Callable[[Task], None]:
    """Rings once the answer is sent, hence after the commit. A Redis that is away costs nothing but time: `reap` rings
    for whatever waits.
    """

    def ring_one(task: Task) -> None:
        if not ring(given.bell, task):
            log.warning("the doorbell is away", task=str(task))

    return lambda task: after.add_task(ring_one, task)


DoorbellDep = Annotated[Callable[[Task], None], Depends(doorbell)]


def storable(text: str) -> str:
    """Refuse what no row can hold."""
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("holds a NUL or half a surrogate pair")
    return text


Text = Annotated[str, AfterValidator(storable)]
Limit = Annotated[int, Query(ge=1, le=500, description="entries on a page, at most")]
CursorParam = Annotated[
    Text | None, Query(max_length=1000, description="`next` of the page before; leave it out for the first page")
]
