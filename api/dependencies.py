"""Dependencies of the routes: this process's connections, one transaction per request, and notifications of workers."""

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import BackgroundTasks, Depends, Query, Request
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from starlette.types import Receive

from api.concurrency import StoreLimiter, ThreadLimiter
from api.notifier import Notifier
from api.schemas.common import Text
from api.settings import ApiSettings
from car.object_store import ObjectStore
from db.objects import S3ObjectStore, StoreTimeouts
from db.session import make_engine, transaction
from worker.celery_app import TaskName

_PROBE_MS = 3_000
_POOL_SECONDS = 1.0
"""Requests do not wait for a connection: the limiter admits only as many as there are."""
_STORE_REQUESTS = 16
_STORE_TIMEOUTS = StoreTimeouts(connect=2, read=4, attempts=2)

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Connections:
    """Connections of this process, opened on first use, with a limiter for each."""

    settings: ApiSettings
    database: Engine
    """Used only with a slot of `database_limit`."""
    probes: Engine
    """For /readyz and /metrics, which must answer while requests hold all other connections."""
    objects: ObjectStore
    notifier: Notifier
    database_limit: ThreadLimiter
    store_limit: StoreLimiter
    drawing_limit: ThreadLimiter
    """Bounds memory: a full-size mask may take tens of megabytes."""

    @classmethod
    def from_settings(cls, settings: ApiSettings) -> "Connections":
        url = settings.database_url.get_secret_value()
        return cls(
            settings=settings,
            database=make_engine(url, pool=settings.database_pool, pool_seconds=_POOL_SECONDS),
            probes=make_engine(url, pool=2, pool_seconds=_POOL_SECONDS, statement_ms=_PROBE_MS),
            objects=S3ObjectStore.from_settings(settings, timeouts=_STORE_TIMEOUTS),
            notifier=Notifier(settings.celery_broker_url.get_secret_value()),
            database_limit=ThreadLimiter("the database", settings.database_pool),
            store_limit=StoreLimiter("the object store", _STORE_REQUESTS),
            drawing_limit=ThreadLimiter("drawings", settings.drawings),
        )

    async def in_transaction(self, query: Callable[[Session], Result], receive: Receive) -> Result:
        """Run `query` in a transaction of its own, for handlers that do more than query the database."""

        def run_query() -> Result:
            with transaction(self.database) as session:
                return query(session)

        return await self.database_limit.run(run_query, receive)

    def close(self) -> None:
        for limit in (self.database_limit, self.store_limit, self.drawing_limit):
            limit.close()
        self.database.dispose()
        self.probes.dispose()
        self.notifier.close()


async def get_connections(request: Request) -> Connections:
    return request.app.state.connections  # type: ignore[no-any-return] # starlette's state is untyped


ConnectionsDep = Annotated[Connections, Depends(get_connections)]


async def database_slot(request: Request, connections: ConnectionsDep) -> AsyncIterator[None]:
    """Hold a slot of the database from before the connection is taken until it is returned."""
    await connections.database_limit.acquire(request.receive)
    try:
        yield
    finally:
        connections.database_limit.release()


def session(
    connections: ConnectionsDep, _: Annotated[None, Depends(database_slot, scope="function")]
) -> Iterator[Session]:
    """Open one transaction per request. It commits before the response is sent, so a client that reads 202 finds the
    row.
    """
    with transaction(connections.database) as opened:
        yield opened


SessionDep = Annotated[Session, Depends(session, scope="function")]


async def notify(connections: ConnectionsDep, after: BackgroundTasks) -> Callable[[TaskName], None]:
    """Notify workers after the response was sent, hence after the commit."""
    return lambda task: after.add_task(connections.notifier.notify, [task])


NotifyDep = Annotated[Callable[[TaskName], None], Depends(notify)]

Limit = Annotated[int, Query(ge=1, le=500, description="most entries on a page")]
CursorParam = Annotated[
    Text | None, Query(max_length=1000, description="`next` of the previous page; omit it for the first page")
]
