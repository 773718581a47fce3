"""Answers of many megabytes, without holding up whoever asks for little meanwhile."""

from collections.abc import Iterator, Sequence

from anyio.lowlevel import checkpoint
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

CHUNK_BYTES = 2**18
"""Bytes that are copied and written in one go: a fraction of a millisecond, in which the process does nothing else."""


class ChunkedResponse(Response):
    """JSON whose text is these parts one after the other, never as one. Between two pieces others have their turn, also
    where the client takes them all at once.
    """

    media_type = "application/json"

    def __init__(self, parts: Sequence[bytes]) -> None:
        super().__init__(headers={"Content-Length": str(sum(map(len, parts)))})
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as ASGI has it
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece in joined(self._parts):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await checkpoint()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        if self.background is not None:
            await self.background()


def joined(parts: Sequence[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of `PIECE` at least, but for the last one; no part is cut."""
    waiting: list[bytes] = []
    size = 0
    for part in parts:
        waiting.append(part)
        size += len(part)
        if size >= CHUNK_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)
