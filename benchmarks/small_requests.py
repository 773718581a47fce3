"""Latency of small requests, each kind sent by a process of its own so that other work of the client adds nothing.

A server that does nothing is measured as well: its latency is that of the machine.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, NamedTuple

from cli.errors import ProcessFailedError

SMALL_GOAL_MS = 20.0
FLOOR = "floor"
"""The reported path of the server that does nothing."""
_PROGRAM = Path(__file__).with_name("small_client.py")


class Span(NamedTuple):
    """Start and end on the monotonic clock that processes share."""

    begun: float
    ended: float

    def overlaps(self, other: "Span") -> bool:
        return self.begun < other.ended and other.begun < self.ended


Observed = Callable[[], dict[str, list[Span]]]
"""Returns all requests so far by path."""


@contextmanager
def send_small_requests(url: str, bodies: Mapping[str, str]) -> Iterator[Observed]:
    """Request each path of `bodies` repeatedly: POST its body, or GET if that is empty."""
    with ExitStack() as stack:
        server = stack.enter_context(_child("serve", stdout=subprocess.PIPE))
        port = int(_line(server.stdout))
        requests = {path: (url + path, body) for path, body in bodies.items()}
        requests[FLOOR] = (f"http://127.0.0.1:{port}/", "")
        files = {path: stack.enter_context(TemporaryFile()) for path in requests}
        clients = [stack.enter_context(_child("request", *requests[path], stdout=file)) for path, file in files.items()]

        def observed() -> dict[str, list[Span]]:
            if any(process.poll() is not None for process in clients):
                raise ProcessFailedError("a small request failed; the client's error is above")
            return {path: _read(file) for path, file in files.items()}

        yield observed


@contextmanager
def _child(*words: str, stdout: int | IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    # Isolated and without our packages, so that it starts quickly and does nothing else.
    process = subprocess.Popen([sys.executable, "-I", str(_PROGRAM), *words], stdout=stdout)  # noqa: S603 - our own
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _line(stream: IO[bytes] | None) -> bytes:
    return stream.readline() if stream is not None else b""


def _read(file: IO[bytes]) -> list[Span]:
    # pread, because the file position is shared with the writer.
    content = os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)
    return [Span(*map(float, line.split())) for line in content.splitlines(keepends=True) if line.endswith(b"\n")]
