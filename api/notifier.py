"""Notifications of workers, sent outside of the requests that cause them."""

import asyncio
from collections.abc import Iterable
from functools import partial

import structlog

from api.concurrency import ThreadLimiter
from api.errors import OverloadedError
from worker.celery_app import TaskName, make_celery_app, notify

_THREADS = 2
_ANSWER_SECONDS = 3.0
"""How long a connected Redis may take to answer."""

log = structlog.get_logger("api")


class Notifier:
    """Notifies workers of new rows, on threads of its own. Pending notifications of the same task are sent once."""

    def __init__(self, broker_url: str) -> None:
        self._celery = make_celery_app(broker_url, socket_timeout=_ANSWER_SECONDS)
        self._threads = ThreadLimiter("notifications", _THREADS)
        self._pending: dict[TaskName, asyncio.Task[None]] = {}

    async def notify(self, tasks: Iterable[TaskName]) -> None:
        """Send the notifications; call this after the commit. Without Redis only time is lost: the scheduler notifies
        again.
        """
        for sending in [self._start(task) for task in sorted(set(tasks))]:
            await asyncio.shield(sending)  # other requests may await it, too

    def _start(self, task: TaskName) -> "asyncio.Task[None]":
        sending = self._pending.get(task)
        if sending is None:
            sending = self._pending[task] = asyncio.ensure_future(self._send(task))
        return sending

    async def _send(self, task: TaskName) -> None:
        try:
            await self._threads.run(partial(self._call, task))
        except OverloadedError:
            self._pending.pop(task, None)
            log.warning("notification dropped", task=str(task))

    def _call(self, task: TaskName) -> None:
        self._pending.pop(task, None)  # rows committed from here on need another notification
        if not notify(self._celery, task):
            log.warning("broker unreachable", task=str(task))

    def close(self) -> None:
        self._threads.close()
        self._celery.close()
