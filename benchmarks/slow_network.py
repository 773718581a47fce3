"""A TCP proxy with latency and faults, in front of a server."""

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Self

_CHUNK_BYTES = 64 * 1024
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER on with zero seconds: closing sends RST instead of FIN."""


class SlowNetwork:
    """Forwards connections to `address` to the target, inside a `with` block.

    `latency` is in seconds per direction and may be changed at any time: bytes arrive that much later and in order,
    without a limit on bytes in flight. `blackhole` drops all bytes and keeps connections open. The proxy runs on one
    thread of this process.
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
            raise AssertionError("the network is not running: use it in a `with` block")
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    def reset(self) -> None:
        """Reset all open connections; new ones are accepted."""
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

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - the result of the coroutine
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
        """Handle one connection; each runs as a task of its own."""
        self.connections += 1
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._open.add(writer)
        try:
            target_reader, target_writer = await asyncio.open_connection(*self._target)
        except OSError:
            self._open.discard(writer)
            writer.transport.abort()
            return
        self._open.add(target_writer)
        try:
            # Only our own shutdown cancels it, which asyncio would report as an error.
            with suppress(asyncio.CancelledError):
                await asyncio.gather(self._forward(reader, target_writer), self._forward(target_reader, writer))
        finally:
            self._open -= {writer, target_writer}
            writer.transport.abort()
            target_writer.transport.abort()

    async def _forward(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        """Forward one direction until its end is delivered."""
        in_flight: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        delivery = asyncio.create_task(self._deliver(in_flight, target))
        try:
            data = b"more"
            while data:
                try:
                    data = await source.read(_CHUNK_BYTES)
                except OSError:
                    data = b""
                in_flight.put_nowait((time.monotonic() + self.latency, data))
            await delivery
        finally:
            delivery.cancel()

    async def _deliver(self, in_flight: asyncio.Queue[tuple[float, bytes]], target: asyncio.StreamWriter) -> None:
        while True:
            due, data = await in_flight.get()
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
