"""Large answers: whole, in pieces, and with a turn for others between two."""

import asyncio
from itertools import pairwise

import pytest

from api.label_studio.chunked_response import CHUNK_BYTES, ChunkedResponse, joined


@pytest.mark.parametrize(
    "sizes", [[], [0], [1], [CHUNK_BYTES], [1] * 10, [CHUNK_BYTES - 1, 1, 1], [12_000] * 100, [5 * CHUNK_BYTES, 3]]
)
def test_pieces_are_the_whole_and_cut_no_part(sizes):
    parts = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    pieces = list(joined(parts))
    assert b"".join(pieces) == b"".join(parts)
    assert all(len(piece) >= CHUNK_BYTES for piece in pieces[:-1])
    assert max(map(len, pieces), default=0) < CHUNK_BYTES + max(sizes, default=0) + 1


def test_others_have_a_turn_between_two_pieces_of_a_client_that_takes_all_at_once():
    events = []

    async def send(message):
        events.append(message)  # without waiting for anything

    async def another():
        while True:
            events.append("another")
            await asyncio.sleep(0)

    async def both():
        other = asyncio.ensure_future(another())
        await ChunkedResponse([b"x" * CHUNK_BYTES] * 4)({}, None, send)
        other.cancel()

    asyncio.run(both())
    written = [place for place, event in enumerate(events) if event != "another" and event.get("body")]
    assert len(written) == 4
    assert all("another" in events[one:after] for one, after in pairwise(written))
    start = events[0]
    assert dict(start["headers"])[b"content-length"] == str(4 * CHUNK_BYTES).encode()
