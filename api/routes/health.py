"""/healthz and /readyz: whether the process lives, and whether it is of use. Neither needs a thread of requests."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import redis
from fastapi import APIRouter, Request

from api.dependencies import Connections
from api.schemas import LivenessResponse, ReadinessResponse
from car.errors import CarError
from db import schema
from db.errors import DatabaseBusyError

_FRESH_SECONDS = 0.5
_LAST_OUTCOME_SECONDS = 5.0
_PATIENCE_SECONDS = 0.1
"""How long a slow check is waited for where the last outcome is recent."""
_DATABASE_SECONDS = 2.0
_OTHERS_SECONDS = 0.4

router = APIRouter(tags=["health"])


class Probe:
    """A check of something that may hang. It runs on a thread of its own, once at a time however many requests ask, and
    again once its outcome is half a second old. While a check is slow, the last outcome is good for five seconds.
    """

    def __init__(self, check: Callable[[], CarError | str], *, wait_seconds: float) -> None:
        self._check = check
        self._wait_seconds = wait_seconds
        self._threads = ThreadPoolExecutor(1, "probe")
        self._begun = 0.0
        self._running: Future[CarError | str] | None = None
        self._last: tuple[float, CarError | str] | None = None

    async def outcome(self) -> CarError | str | None:
        """Return the outcome of the check; None where it takes longer than `wait_seconds`, counted from its start."""
        now = time.monotonic()
        if self._running is None or (self._running.done() and now - self._begun > _FRESH_SECONDS):
            self._begun, self._running = now, self._threads.submit(self._check)
        running, begun = self._running, self._begun
        recent = self._last is not None and now - self._last[0] < _LAST_OUTCOME_SECONDS
        patience = _PATIENCE_SECONDS if recent else max(0.0, begun + self._wait_seconds - now)
        try:
            outcome = await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(running)), patience)
        except TimeoutError:
            return self._last[1] if recent and self._last is not None else None
        self._last = (begun, outcome)
        return outcome

    async def state(self) -> str:
        """For people."""
        outcome = await self.outcome()
        return outcome.code if isinstance(outcome, CarError) else outcome or "slow"

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class Probes:
    """The checks of /readyz."""

    def __init__(self, engines: Connections) -> None:
        url = engines.settings.celery_broker_url.get_secret_value()
        self.database = Probe(_outcome(lambda: schema.require_current(engines.probes)), wait_seconds=_DATABASE_SECONDS)
        self.broker = Probe(lambda: _ping(url), wait_seconds=_OTHERS_SECONDS)
        self.objects = Probe(_outcome(engines.objects.ready), wait_seconds=_OTHERS_SECONDS)

    def close(self) -> None:
        for probe in (self.database, self.broker, self.objects):
            probe.close()


def _outcome(check: Callable[[], None]) -> Callable[[], CarError | str]:
    def checked() -> CarError | str:
        try:
            check()
        except CarError as error:
            return error
        return "ok"

    return checked


def _ping(url: str) -> str:
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=1, socket_timeout=1) as client:
            client.ping()
    except (redis.RedisError, OSError, ValueError):
        return "away"
    return "ok"


@router.get("/healthz", summary="The process lives")
async def healthz() -> LivenessResponse:
    return LivenessResponse(status="ok")


@router.get("/readyz", summary="The database answers and its tables are this version's")
async def readyz(request: Request) -> ReadinessResponse:
    """503 without the database. The broker and the object store are told of and do not count: jobs are taken and rows
    are read without them.
    """
    probes: Probes = request.app.state.probes
    database, broker, objects = await asyncio.gather(
        probes.database.outcome(), probes.broker.state(), probes.objects.state()
    )
    if database is None:
        raise DatabaseBusyError(f"PostgreSQL does not answer within {_DATABASE_SECONDS:g} s")
    if isinstance(database, CarError):
        raise database
    return ReadinessResponse(
        status="ready", checks={"database": "ok", "schema": "ok", "broker": broker, "objects": objects}
    )
