"""/healthz and /readyz: is the process alive, and can it serve. Neither uses the threads of other requests."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import redis
from fastapi import APIRouter, Request

from api.dependencies import Connections
from api.schemas.common import LivenessResponse, ReadinessResponse
from car.errors import CarError
from db import schema
from db.errors import DatabaseBusyError

_FRESH_SECONDS = 0.5
_LAST_OUTCOME_SECONDS = 5.0
_PATIENCE_SECONDS = 0.1
"""How long to wait for a slow check if its last outcome is recent."""
_DATABASE_SECONDS = 2.0
_OTHERS_SECONDS = 0.4

router = APIRouter(tags=["health"])


class Probe:
    """A check that may hang. It runs on a thread of its own, once for concurrent requests, and again when its outcome
    is half a second old. While it is slow, its last outcome is valid for five seconds.
    """

    def __init__(self, check: Callable[[], str | None], *, wait_seconds: float) -> None:
        self._check = check
        self._wait_seconds = wait_seconds
        self._threads = ThreadPoolExecutor(1, "probe")
        self._begun = 0.0
        self._running: Future[CarError | str] | None = None
        self._last: tuple[float, CarError | str] | None = None

    async def outcome(self) -> CarError | str | None:
        """Return the outcome of the check; None if it takes longer than `wait_seconds` from its start."""
        now = time.monotonic()
        if self._running is None or (self._running.done() and now - self._begun > _FRESH_SECONDS):
            self._begun, self._running = now, self._threads.submit(self._run)
        running, begun = self._running, self._begun
        recent = self._last is not None and now - self._last[0] < _LAST_OUTCOME_SECONDS
        patience = _PATIENCE_SECONDS if recent else max(0.0, begun + self._wait_seconds - now)
        try:
            outcome = await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(running)), patience)
        except TimeoutError:
            return self._last[1] if recent and self._last is not None else None
        self._last = (begun, outcome)
        return outcome

    def _run(self) -> CarError | str:
        try:
            return self._check() or "ok"
        except CarError as error:
            return error

    async def state(self) -> str:
        """Return the outcome as a word: "ok", an error code, or "slow"."""
        outcome = await self.outcome()
        return outcome.code if isinstance(outcome, CarError) else outcome or "slow"

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def make_probes(connections: Connections) -> dict[str, Probe]:
    """Return the checks of /readyz."""
    url, store = connections.settings.celery_broker_url.get_secret_value(), connections.objects
    return {
        "database": Probe(partial(schema.require_current, connections.probes), wait_seconds=_DATABASE_SECONDS),
        "broker": Probe(partial(_ping, url), wait_seconds=_OTHERS_SECONDS),
        "objects": Probe(partial(store.check_bucket, store.bucket), wait_seconds=_OTHERS_SECONDS),
    }


def _ping(url: str) -> str | None:
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=1, socket_timeout=1) as client:
            client.ping()
    except (redis.RedisError, OSError, ValueError):
        return "away"
    return None


@router.get("/healthz", summary="The process is alive")
async def healthz() -> LivenessResponse:
    return LivenessResponse(status="ok")


@router.get("/readyz", summary="The database answers and has this version's tables")
async def readyz(request: Request) -> ReadinessResponse:
    """503 without the database. The broker and the object store are only reported: jobs are accepted and rows are read
    without them.
    """
    probes: dict[str, Probe] = request.app.state.probes
    database, broker, objects = await asyncio.gather(
        probes["database"].outcome(), probes["broker"].state(), probes["objects"].state()
    )
    if database is None:
        raise DatabaseBusyError(f"PostgreSQL does not answer within {_DATABASE_SECONDS:g} s")
    if isinstance(database, CarError):
        raise database
    return ReadinessResponse(
        status="ready", checks={"database": "ok", "schema": "ok", "broker": broker, "objects": objects}
    )
