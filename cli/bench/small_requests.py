"""Small requests again and again, each kind from a process of its own: what else the client does is not in their times.

Beside the service's own there is a server that does nothing, in another process: what it takes, the machine takes.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, NamedTuple

from cli.errors import ProcessFailed

SMALL_GOAL_MS = 20.0
FLOOR = "floor"
"""The server that does nothing, among the addresses."""
_PROGRAM = Path(__file__).with_name("small_client.py")


class Span(NamedTuple):
    """Seconds of the clock that processes share."""

    begun: float
    ended: float

    def meets(self, other: "Span") -> bool:
        return self.begun < other.ended and other.begun < self.ended


Seen = Callable[[], dict[str, list[Span]]]


@contextmanager
def asked_again_and_again(url: str, bodies: Mapping[str, str]) -> Iterator[Seen]:
    """Addresses of `url` with what is posted there, nothing for GET; and the one that does nothing. Yields what tells
    every answer so far.
    """
    with ExitStack() as stack:
        idle = stack.enter_context(_child("serve", stdout=subprocess.PIPE))
        port = int(_line(idle.stdout))
        given = {path: (url + path, body) for path, body in bodies.items()}
        given[FLOOR] = (f"http://127.0.0.1:{port}/", "")
        files = {path: stack.enter_context(TemporaryFile()) for path in given}
        asking = [stack.enter_context(_child("ask", *given[path], stdout=file)) for path, file in files.items()]

        def seen() -> dict[str, list[Span]]:
            if any(process.poll() is not None for process in asking):
                raise ProcessFailed("a small request failed; its own words are above")
            return {path: _read(file) for path, file in files.items()}

        yield seen


@contextmanager
def _child(*words: str, stdout: int | IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    # Isolated, and that file alone: it starts in a moment, and has nothing else to do.
    process = subprocess.Popen([sys.executable, "-I", str(_PROGRAM), *words], stdout=stdout)  # noqa: S603 - our own
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _line(stream: IO[bytes] | None) -> bytes:
    return stream.readline() if stream is not None else b""


def _read(file: IO[bytes]) -> list[Span]:
    # Its position is its writer's too.
    whole = os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)
    return [Span(*map(float, line.split())) for line in whole.splitlines(keepends=True) if line.endswith(b"\n")]
