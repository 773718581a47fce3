"""A TCP proxy that makes a server as far away, or as broken, as one likes. For benchmarks and fault drills."""

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Self

_PIECE = 64 * 1024
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: on, for no time. Closing then sends RST and not FIN."""


class SlowNetwork:
    """Between `with` and its end, what connects to `address` talks with the target.

    `latency` is in seconds a direction, and may be changed at any time: bytes arrive so much later, in order, while
    any amount may be under way. `blackhole` swallows all bytes and lets connections hang, as a network does that lost
    its way. It runs on one thread of this process.
    """

    def __init__(self, host: str, port: int, *, latency: float = 0.0) -> None:
        self._target = host, port
        self.latency = latency
        self.blackhole = False
        self.connections = 0
        """Accepted so far."""
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to connect to."""
        if self._server is None:
            raise AssertionError("the network is not up: use it in a `with` block")
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    def reset(self) -> None:
        """Every open connection ends at once, as after a crash or at a firewall's will. New ones are welcome."""
        self._run(self._reset())

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._accept, "127.0.0.1", 0))
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - whatever the work returns
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _reset(self) -> None:
        for writer in list(self._open):
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Runs as a task of its own for each connection; the server would end with one that it waits for."""
        self.connections += 1
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._open.add(writer)
        try:
            there, back = await asyncio.open_connection(*self._target)
        except OSError:
            self._open.discard(writer)
            writer.transport.abort()
            return
        self._open.add(back)
        try:
            # It is cancelled at our own end alone, and asyncio would report that as an error.
            with suppress(asyncio.CancelledError):
                await asyncio.gather(self._carry(reader, back), self._carry(there, writer))
        finally:
            self._open -= {writer, back}
            writer.transport.abort()
            back.transport.abort()

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        """One direction, until its end has arrived too."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        delivery = asyncio.create_task(self._deliver(under_way, target))
        try:
            data = b"more"
            while data:
                try:
                    data = await source.read(_PIECE)
                except OSError:
                    data = b""
                under_way.put_nowait((time.monotonic() + self.latency, data))
            await delivery
        finally:
            delivery.cancel()

    async def _deliver(self, under_way: asyncio.Queue[tuple[float, bytes]], target: asyncio.StreamWriter) -> None:
        while True:
            due, data = await under_way.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if self.blackhole:
                if not data:
                    return
                continue
            try:
                if not data:
                    target.write_eof()
                    return
                target.write(data)
                await target.drain()
            except OSError:
                return
