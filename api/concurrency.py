"""Admission control: a limiter admits a fixed number of requests; others wait briefly in order and are then refused.

Everything that can run out has a limiter: database connections, requests to S3, drawings. A waiting request holds no
thread and no connection, and leaves the queue when its client disconnects. A request never waits for one limiter while
it holds another.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from api.errors import OverloadedError, StoreTimeoutError

Result = TypeVar("Result")

_WAIT_SECONDS = 5.0
_LONGEST_QUEUE = 1_000
_STORE_WAIT_SECONDS = 3.0
_STORE_SECONDS = 9.0
"""Longer than both attempts at an S3 server that hangs, so that it is reported as unreachable and not as slow."""


class ThreadLimiter:
    """Admits `slots` requests at a time, first come first served, each with a thread of its own. It belongs to one
    event loop.
    """

    def __init__(self, resource: str, slots: int, *, wait_seconds: float = _WAIT_SECONDS) -> None:
        self._resource = resource
        self._free = slots
        self._wait_seconds = wait_seconds
        self._queue: deque[asyncio.Future[None]] = deque()
        self._threads = ThreadPoolExecutor(slots, resource.replace(" ", "-"))

    async def acquire(self, receive: Receive | None = None, *, wait_seconds: float | None = None) -> None:
        """Wait for a slot. `receive` belongs to a request whose body was read: it reports a disconnect.

        Raises:
            OverloadedError: no slot became free within `wait_seconds`, or the queue is full.
            ClientDisconnect: the client has gone.

        """
        if self._free and not self._queue:
            self._free -= 1
            return
        overloaded = OverloadedError(f"too many requests need {self._resource} at the same time; try again later")
        if len(self._queue) >= _LONGEST_QUEUE:
            raise overloaded
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        disconnect = asyncio.ensure_future(_disconnected(receive)) if receive is not None else None
        try:
            seconds = self._wait_seconds if wait_seconds is None else wait_seconds
            awaited = {turn, disconnect} if disconnect is not None else {turn}
            await asyncio.wait(awaited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            self._leave(turn)
            raise
        finally:
            if disconnect is not None:
                disconnect.cancel()
        if not turn.done():
            self._leave(turn)
            if disconnect is None or not disconnect.done():
                raise overloaded
            disconnect.result()  # raises if the body is too large
            raise ClientDisconnect

    def _leave(self, turn: "asyncio.Future[None]") -> None:
        if turn.done():  # admitted and cancelled at the same moment
            self.release()
        else:
            self._queue.remove(turn)

    def release(self) -> None:
        """Pass the slot on to the request that has waited longest."""
        if self._queue:
            self._queue.popleft().set_result(None)
        else:
            self._free += 1

    async def run(
        self,
        function: Callable[[], Result],
        receive: Receive | None = None,
        *,
        wait_seconds: float | None = None,
        seconds: float | None = None,
    ) -> Result:
        """Call `function` on a thread once there is a slot. A call that times out keeps its slot until it ends.

        Raises:
            OverloadedError, ClientDisconnect: see `acquire`.
            TimeoutError: the call took more than `seconds`.

        """
        await self.acquire(receive, wait_seconds=wait_seconds)
        loop = asyncio.get_running_loop()
        try:
            future = self._threads.submit(copy_context().run, function)
        except RuntimeError:  # the process is shutting down
            self.release()
            raise

        def release(_: object) -> None:
            with suppress(RuntimeError):  # the loop was closed before the thread ended
                loop.call_soon_threadsafe(self.release)

        future.add_done_callback(release)
        async with asyncio.timeout(seconds):
            return await asyncio.wrap_future(future)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class StoreLimiter(ThreadLimiter):
    """For requests to S3: one that hangs blocks no thread and no database connection of another request."""

    def __init__(self, resource: str, slots: int) -> None:
        super().__init__(resource, slots, wait_seconds=_STORE_WAIT_SECONDS)

    async def fetch(self, function: Callable[[], Result], receive: Receive | None = None) -> Result:
        """Call `function`, which reads from S3.

        Raises:
            OverloadedError, ClientDisconnect: see `run`.
            StoreTimeoutError: S3 did not answer in time.

        """
        try:
            return await self.run(function, receive, seconds=_STORE_SECONDS)
        except TimeoutError:
            raise StoreTimeoutError("the S3 server does not answer in time; try again later") from None


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
