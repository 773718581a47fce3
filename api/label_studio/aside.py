"""A process beside this one for bodies of many tasks, so that Python's lock is free for whoever asks for little.

Threads would not do: beside one that computes, every small step of another request waits for the lock, and for its
holder's turn on the processor. Nothing depends on the process: what it does not answer is answered here, on a thread.
"""

import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import structlog
from anyio.lowlevel import checkpoint

from api.label_studio.chunked_response import CHUNK_BYTES
from worker.celery_app import TaskName

WORTH_IT = 2**16
"""Bytes of a body that takes longer than its way to the process and back: a hundred tasks."""
FRAME = struct.Struct("!IQ")
"""Bytes of a header, which is JSON, and of the body after it; in both directions."""
_LAST_WORDS_SECONDS = 5.0
_AGAIN_SECONDS = 10.0
"""One that dies and dies is started so often."""
_HANGS_SECONDS = 45.0
"""Longer than its statements may take, and so short that a thread can still answer before Label Studio gives up."""

log = structlog.get_logger("api.label_studio")


@dataclass(frozen=True)
class Answered:
    """An answer to /predict: parts of its JSON text, what is to be counted, and whom to ring for."""

    parts: Sequence[bytes]
    counts: Counter[str] = field(default_factory=Counter)
    bells: set[TaskName] = field(default_factory=set)


class Aside:
    """The process as its owner sees it. Each request is a socket of its own that is passed to it: one that is given up
    disturbs no other.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._ready = False
        self._started = 0.0

    def start(self) -> None:
        """Returns at once: it is asked nothing until it has said that it is ready."""
        self._ready, self._started = False, time.monotonic()
        self._control, theirs = socket.socketpair()
        self._control.setblocking(False)
        program = [sys.executable, "-P", "-m", "api.label_studio.bulk", str(theirs.fileno())]
        path = {"PYTHONPATH": os.pathsep.join(sys.path)}
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - this interpreter, our own module
                    program, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=os.environ | path
                )
            except OSError as error:  # no room for another
                self._process = None
                log.warning("large bodies are answered on threads: no process can be started", reason=str(error))

    @property
    def pid(self) -> int | None:
        """Of the process, once it is ready."""
        self._look()
        return self._process.pid if self._process is not None and self._ready else None

    async def predict(self, body: bytes) -> Answered | None:
        """None: it is not there, died of this or came to no end, or says that it is not its business."""
        if (line := self._line()) is None:
            return None
        process = self._process
        with line:
            try:
                async with asyncio.timeout(_HANGS_SECONDS):
                    return await _exchange(line, body)
            except TimeoutError:
                log.warning("the process for large bodies does not answer and is ended", seconds=_HANGS_SECONDS)
                if process is not None:
                    process.kill()
            except (EOFError, OSError):
                self._look()
        return None

    def _line(self) -> socket.socket | None:
        if self.pid is None or self._control is None:
            return None
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs, suppress(OSError):  # where it could not be passed, the line has ended, and that is seen
            socket.send_fds(self._control, [b"+"], [theirs.fileno()])
        return ours

    def _look(self) -> None:
        """Whether it is ready by now; it is started again if it has ended."""
        if self._control is None or self._process is None:
            return
        code = self._process.poll()
        if code is None:
            with suppress(OSError):
                self._ready = self._ready or bool(self._control.recv(1))
        else:
            self._ready = False
            if time.monotonic() - self._started > _AGAIN_SECONDS:
                log.warning("the process for large bodies has ended and is started again", exit_code=code)
                self._control.close()
                self.start()

    def close(self) -> None:
        """A process that hears nothing more ends by itself."""
        if self._control is None or self._process is None:
            return
        self._control.close()
        try:
            self._process.wait(_LAST_WORDS_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._control = self._process = None


async def _exchange(line: socket.socket, body: bytes) -> Answered | None:
    context = {name: str(value) for name, value in structlog.contextvars.get_contextvars().items()}
    header = json.dumps(context).encode()
    await asyncio.get_running_loop().sock_sendall(line, FRAME.pack(len(header), len(body)) + header)
    await asyncio.get_running_loop().sock_sendall(line, body)
    length, size = FRAME.unpack(await _read(line, FRAME.size))
    told: dict[str, Any] = json.loads(await _read(line, length))
    if not told:
        return None
    parts = [await _read(line, min(CHUNK_BYTES, size - start)) for start in range(0, size, CHUNK_BYTES)]
    return Answered(parts, Counter(told["counts"]), {TaskName(bell) for bell in told["bells"]})


async def _read(line: socket.socket, size: int) -> bytes:
    """As many bytes as that. Others have a turn before, for a loop is not left where bytes are waiting.

    Raises:
        EOFError: the process has ended.

    """
    await checkpoint()
    buffer = bytearray(size)
    here, rest = asyncio.get_running_loop(), memoryview(buffer)
    while rest:
        read = await here.sock_recv_into(line, rest)
        if not read:
            raise EOFError
        rest = rest[read:]
    return bytes(buffer)
