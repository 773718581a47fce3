"""/healthz and /readyz: whether the process lives, and whether it is of use."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass, field
from threading import Lock

import redis
from fastapi import APIRouter, Request

from api.dependencies import Engines, EnginesDep
from api.schemas import Alive, Ready
from car.errors import CarError
from db import schema

_PATIENCE_SECONDS = 1.5

router = APIRouter(tags=["health"])


@dataclass
class Probe:
    """A look at something that may hang: asked in a thread of its own, one look at a time, waited for briefly."""

    look: Callable[[], str]
    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "probe"))
    _lock: Lock = field(default_factory=Lock)
    _asked: "Future[str] | None" = None

    def state(self) -> str:
        with self._lock:
            if self._asked is None or self._asked.done():
                self._asked = self._threads.submit(self.look)
            asked = self._asked
        try:
            return asked.result(_PATIENCE_SECONDS)
        except Late:
            return "slow"

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def broker_probe(engines: Engines) -> Probe:
    url = engines.settings.celery_broker_url.get_secret_value()

    def look() -> str:
        try:
            with redis.Redis.from_url(url, socket_connect_timeout=1, socket_timeout=1) as client:
                client.ping()
        except (redis.RedisError, OSError, ValueError):
            return "away"
        return "ok"

    return Probe(look)


def objects_probe(engines: Engines) -> Probe:
    def look() -> str:
        try:
            engines.objects.ready()
        except CarError as error:
            return error.code
        return "ok"

    return Probe(look)


@router.get("/healthz", summary="The process lives")
async def healthz() -> Alive:
    return Alive(status="ok")


@router.get("/readyz", summary="The database answers and its tables are this version's")
def readyz(request: Request, engines: EnginesDep) -> Ready:
    """503 without the database. The broker and the object store are told of and do not count: jobs are taken and rows
    are read without them.
    """
    schema.require_current(engines.probes)
    checks = {
        "database": "ok",
        "schema": "ok",
        "broker": request.app.state.broker.state(),
        "objects": request.app.state.objects.state(),
    }
    return Ready(status="ready", checks=checks)
