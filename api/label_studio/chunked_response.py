"""Responses of many megabytes that do not block other requests meanwhile."""

from collections.abc import Iterator, Sequence

from anyio.lowlevel import checkpoint
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

CHUNK_BYTES = 2**18
"""Bytes that are copied and sent at once, which blocks the event loop for a fraction of a millisecond."""


class ChunkedResponse(Response):
    """JSON in parts that are never joined as a whole. After each chunk other requests get a turn, even if the client
    reads without delay.
    """

    media_type = "application/json"

    def __init__(self, parts: Sequence[bytes]) -> None:
        super().__init__(headers={"Content-Length": str(sum(map(len, parts)))})
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for chunk in chunks(self._parts):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await checkpoint()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        if self.background is not None:
            await self.background()


def chunks(parts: Sequence[bytes]) -> Iterator[bytes]:
    """Yield the parts joined into chunks of at least CHUNK_BYTES, but for the last one. No part is split."""
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
