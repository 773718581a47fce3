"""Concurrency limits: a limiter admits a bounded number of requests; others wait briefly and are refused then.

A request that waits holds no thread and no connection, and is dropped when its client hangs up. Each thing that can run
out has a limiter: database connections, requests to S3, drawings. No request waits for one while it holds another.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from typing import NoReturn, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from api.errors import OverloadedError

Result = TypeVar("Result")

_WAIT_SECONDS = 5.0
_LONGEST_QUEUE = 1_000


class ConcurrencyLimiter:
    """Admits `slots` holders at a time, in the order of arrival. It belongs to one event loop."""

    def __init__(self, resource: str, slots: int, *, wait_seconds: float = _WAIT_SECONDS) -> None:
        self.slots = slots
        self._resource = resource
        self._free = slots
        self._wait_seconds = wait_seconds
        self._queue: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def slot(self, receive: Receive | None = None) -> AsyncIterator[None]:
        """Hold a slot during the block; see `acquire`."""
        await self.acquire(receive)
        try:
            yield
        finally:
            self.release()

    async def acquire(self, receive: Receive | None = None, *, wait_seconds: float | None = None) -> None:
        """Wait for a slot. `receive` is that of a request whose body was read: it is watched for the client's end.

        Raises:
            OverloadedError: no slot became free in `wait_seconds`, or too many wait already.
            ClientDisconnect: nobody waits for the answer any more.

        """
        if self._free and not self._queue:
            self._free -= 1
            return
        if len(self._queue) >= _LONGEST_QUEUE:
            raise self._overloaded()
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        watch = asyncio.ensure_future(_disconnected(receive)) if receive is not None else None
        try:
            seconds = self._wait_seconds if wait_seconds is None else wait_seconds
            awaited = {turn, watch} if watch is not None else {turn}
            await asyncio.wait(awaited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if not turn.done():
                self._refuse(watch)
        except BaseException:
            if turn.done():  # admitted and cancelled in the same moment
                self.release()
            else:
                self._queue.remove(turn)
            raise
        finally:
            if watch is not None:
                watch.cancel()

    def release(self) -> None:
        """Give the slot to whoever waits longest."""
        if self._queue:
            self._queue.popleft().set_result(None)
        else:
            self._free += 1

    def _refuse(self, watch: "asyncio.Future[None] | None") -> NoReturn:
        if watch is not None and watch.done():
            watch.result()  # raises where a body came that is too large
            raise ClientDisconnect
        raise self._overloaded()

    def _overloaded(self) -> OverloadedError:
        return OverloadedError(f"too many requests want {self._resource} at the same time; send this one again later")


class ThreadLimiter(ConcurrencyLimiter):
    """A limiter with a thread for each slot: what hangs there takes no thread of anything else."""

    def __init__(self, resource: str, slots: int, *, wait_seconds: float = _WAIT_SECONDS) -> None:
        super().__init__(resource, slots, wait_seconds=wait_seconds)
        self._threads = ThreadPoolExecutor(slots, resource.replace(" ", "-"))

    async def run(
        self,
        function: Callable[[], Result],
        receive: Receive | None = None,
        *,
        wait_seconds: float | None = None,
        seconds: float | None = None,
    ) -> Result:
        """Call `function` on a thread, once there is a slot. A call that is given up keeps its slot until it ends.

        Raises:
            OverloadedError, ClientDisconnect: see `acquire`.
            TimeoutError: it took more than `seconds`.

        """
        await self.acquire(receive, wait_seconds=wait_seconds)
        loop = asyncio.get_running_loop()
        try:
            called = self._threads.submit(copy_context().run, function)
        except RuntimeError:  # the process ends
            self.release()
            raise

        def ended(_: object) -> None:
            with suppress(RuntimeError):  # the loop has ended before the thread
                loop.call_soon_threadsafe(self.release)

        called.add_done_callback(ended)
        async with asyncio.timeout(seconds):
            return await asyncio.wrap_future(called)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


async def _disconnected(receive: Receive) -> None:
    """Return when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
