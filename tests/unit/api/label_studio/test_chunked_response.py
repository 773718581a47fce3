"""Large responses: complete, in chunks, and with a turn for other requests between two."""

import asyncio
from itertools import pairwise

import pytest

from api.label_studio.chunked_response import CHUNK_BYTES, ChunkedResponse, chunks


@pytest.mark.parametrize(
    "sizes", [[], [0], [1], [CHUNK_BYTES], [1] * 10, [CHUNK_BYTES - 1, 1, 1], [12_000] * 100, [5 * CHUNK_BYTES, 3]]
)
def test_chunks_are_complete_and_split_no_part(sizes):
    parts = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    joined = list(chunks(parts))
    assert b"".join(joined) == b"".join(parts)
    assert all(len(chunk) >= CHUNK_BYTES for chunk in joined[:-1])
    assert max(map(len, joined), default=0) < CHUNK_BYTES + max(sizes, default=0) + 1


def test_other_requests_get_a_turn_between_two_chunks_even_if_the_client_reads_without_delay():
    events = []

    async def send(message):
        events.append(message)  # without waiting

    async def another():
        while True:
            events.append("another")
            await asyncio.sleep(0)

    async def both():
        other = asyncio.ensure_future(another())
        await ChunkedResponse([b"x" * CHUNK_BYTES] * 4)({}, None, send)
        other.cancel()

    asyncio.run(both())
    written = [index for index, event in enumerate(events) if event != "another" and event.get("body")]
    assert len(written) == 4
    assert all("another" in events[start:end] for start, end in pairwise(written))
    assert dict(events[0]["headers"])[b"content-length"] == str(4 * CHUNK_BYTES).encode()
