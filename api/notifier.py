"""Notifications for workers, sent beside the requests that cause them."""

import asyncio
from collections.abc import Iterable
from functools import partial

import structlog

from api.concurrency import ThreadLimiter
from api.errors import OverloadedError
from worker.celery_app import TaskName, make_celery_app, notify

_THREADS = 2
_ANSWER_SECONDS = 3.0
"""How long a Redis that is connected may take to answer."""

log = structlog.get_logger("api")


class Notifier:
    """Notifies workers of new rows, on threads of its own. Notifications that wait for the same task are sent once, so
    that no more wait than there are tasks.
    """

    def __init__(self, broker_url: str) -> None:
        self._celery = make_celery_app(broker_url, socket_timeout=_ANSWER_SECONDS)
        self._threads = ThreadLimiter("notifications", _THREADS)
        self._waiting: dict[TaskName, asyncio.Task[None]] = {}

    async def notify(self, tasks: Iterable[TaskName]) -> None:
        """To be awaited once the rows are committed. A Redis that is away costs nothing but time: `reap` notifies for
        whatever waits.
        """
        for sent in [self._sent(task) for task in sorted(set(tasks))]:
            await asyncio.shield(sent)  # others may wait for it as well

    def _sent(self, task: TaskName) -> "asyncio.Task[None]":
        if task not in self._waiting:
            self._waiting[task] = asyncio.ensure_future(self._send(task))
        return self._waiting[task]

    async def _send(self, task: TaskName) -> None:
        try:
            await self._threads.run(partial(self._call, task))
        except OverloadedError:
            self._waiting.pop(task, None)
            log.warning("a notification was given up", task=str(task))

    def _call(self, task: TaskName) -> None:
        self._waiting.pop(task, None)  # rows that are committed from here on need another one
        if not notify(self._celery, task):
            log.warning("the doorbell is away", task=str(task))

    def close(self) -> None:
        self._threads.close()
        self._celery.close()
