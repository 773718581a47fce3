"""The process of `api.label_studio.aside`: answers bodies of many tasks, one socket each, until its owner is gone."""

import json
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from api.dependencies import Connections
from api.gc_tuning import tune_interpreter
from api.label_studio import predict
from api.label_studio.aside import FRAME
from api.label_studio.chunked_response import joined
from api.label_studio.context import LARGE_AT_ONCE, BackendContext
from api.logs import configure
from api.settings import ApiSettings

log = structlog.get_logger("api.label_studio")


def serve(control: socket.socket) -> None:
    """Answer until the other end is closed, be it by the owner's death."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # They reach whole process groups. The owner ends requests in hand first, and its end is this one's end.
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):  # where memory runs out, better a selection of tasks than the API
        Path("/proc/self/oom_score_adj").write_text("500")
    settings = ApiSettings.from_environment()
    configure(settings.log_level)
    # Its counters are told to the owner, which has the ones that are asked for.
    with (
        closing(Connections.from_settings(settings)) as engines,
        closing(BackendContext.from_connections(engines, CollectorRegistry())) as face,
    ):
        tune_interpreter()
        with ThreadPoolExecutor(LARGE_AT_ONCE, "bulk") as threads, suppress(OSError):
            control.send(b"+")
            while lines := socket.recv_fds(control, 1, 1)[1]:
                threads.submit(_answer, face, socket.socket(fileno=lines[0]))


def _answer(face: BackendContext, line: socket.socket) -> None:
    with line, suppress(EOFError, OSError):  # the owner is gone, or has given this one up
        length, size = FRAME.unpack(_read(line, FRAME.size))
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(**json.loads(_read(line, length)))
        answered = predict.bulk(face, _read(line, size))
        told: dict[str, Any] = {}
        if answered is not None:
            told = {"counts": answered.counts, "bells": sorted(answered.bells)}
        header, parts = json.dumps(told).encode(), answered.parts if answered is not None else []
        line.sendall(FRAME.pack(len(header), sum(map(len, parts))) + header)
        for piece in joined(parts):
            line.sendall(piece)


def _read(line: socket.socket, size: int) -> bytes:
    buffer = bytearray(size)
    rest = memoryview(buffer)
    while rest:
        read = line.recv_into(rest)
        if not read:
            raise EOFError
        rest = rest[read:]
    return bytes(buffer)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
