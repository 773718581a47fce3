"""What handlers are given: the engines of this process, one transaction a request, notifications of workers."""

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import BackgroundTasks, Depends, Query, Request
from pydantic import AfterValidator
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from starlette.types import Receive

from api.concurrency import ThreadLimiter
from api.errors import StoreTimeoutError
from api.notifier import Notifier
from api.settings import ApiSettings
from db.objects import ObjectStore, StoreTimeouts
from db.session import make_engine, transaction
from worker.celery_app import TaskName

_PROBE_MS = 3_000
_POOL_SECONDS = 1.0
"""No request waits for a connection: the limiter admits no more than there are."""
_STORE_REQUESTS = 16
_STORE_WAIT_SECONDS = 3.0
_STORE_SECONDS = 9.0
"""Longer than both attempts at an S3 server that hangs: it is called unreachable then, and not merely slow."""
_STORE_TIMEOUTS = StoreTimeouts(connect=2, read=4, attempts=2)

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Connections:
    """Connections of this process, each opened when it is first used, and the limits of their use."""

    settings: ApiSettings
    database: Engine
    """Used by holders of a slot of `database_limit` alone."""
    probes: Engine
    """For /readyz and /metrics, so that they answer while requests hold every connection."""
    objects: ObjectStore
    notifier: Notifier
    database_limit: ThreadLimiter
    store_limit: ThreadLimiter
    """For whoever asks S3: hung requests take no thread of others, and hold no connection to the database."""
    drawing_limit: ThreadLimiter
    """A full-size mask may take tens of megabytes: only so many are drawn at a time."""

    @classmethod
    def from_settings(cls, settings: ApiSettings) -> "Connections":
        url = settings.database_url.get_secret_value()
        return cls(
            settings=settings,
            database=make_engine(url, pool=settings.database_pool, pool_seconds=_POOL_SECONDS),
            probes=make_engine(url, pool=2, pool_seconds=_POOL_SECONDS, statement_ms=_PROBE_MS),
            objects=ObjectStore.of(settings, timeouts=_STORE_TIMEOUTS),
            notifier=Notifier(settings.celery_broker_url.get_secret_value()),
            database_limit=ThreadLimiter("the database", settings.database_pool),
            store_limit=ThreadLimiter("the object store", _STORE_REQUESTS, wait_seconds=_STORE_WAIT_SECONDS),
            drawing_limit=ThreadLimiter("drawings", settings.drawings),
        )

    async def in_transaction(self, question: Callable[[Session], Result], receive: Receive) -> Result:
        """What `question` returns of a transaction of its own, for handlers that do more than ask the database.

        Raises:
            OverloadedError, ClientDisconnect: see `ThreadLimiter.run`.
            DatabaseError: see db.session.transaction.

        """

        def ask() -> Result:
            with transaction(self.database) as opened:
                return question(opened)

        return await self.database_limit.run(ask, receive)

    async def from_store(self, question: Callable[[], Result], receive: Receive) -> Result:
        """What `question` returns, which asks S3.

        Raises:
            OverloadedError, ClientDisconnect: see `ThreadLimiter.run`.
            StoreTimeoutError: S3 is too slow.

        """
        return await from_store(self.store_limit, question, receive)

    def close(self) -> None:
        for limit in (self.database_limit, self.store_limit, self.drawing_limit):
            limit.close()
        self.database.dispose()
        self.probes.dispose()
        self.notifier.close()


async def from_store(limit: ThreadLimiter, question: Callable[[], Result], receive: Receive | None) -> Result:
    """See `Engines.from_store`."""
    try:
        return await limit.run(question, receive, seconds=_STORE_SECONDS)
    except TimeoutError:
        raise StoreTimeoutError("the S3 server does not answer in time; try again later") from None


async def connections(request: Request) -> Connections:
    return request.app.state.engines  # type: ignore[no-any-return] # starlette keeps no types of its state


ConnectionsDep = Annotated[Connections, Depends(connections)]


async def database_slot(request: Request, given: ConnectionsDep) -> AsyncIterator[None]:
    """Admission to the database, from before the connection is taken until it is given back."""
    async with given.database_limit.slot(request.receive):
        yield


def session(given: ConnectionsDep, _: Annotated[None, Depends(database_slot, scope="function")]) -> Iterator[Session]:
    """One transaction, committed after the handler and before its answer is sent: who reads "202" finds the row."""
    with transaction(given.database) as opened:
        yield opened


SessionDep = Annotated[Session, Depends(session, scope="function")]


async def notifier(given: ConnectionsDep, after: BackgroundTasks) -> Callable[[TaskName], None]:
    """Notifies once the answer is sent, hence after the commit."""
    return lambda task: after.add_task(given.notifier.notify, [task])


NotifierDep = Annotated[Callable[[TaskName], None], Depends(notifier)]


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
