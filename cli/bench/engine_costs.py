"""What each step of the engine costs by itself, and all of them together around a segmenter that does nothing."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from statistics import median
from typing import Any

from car.bulk_source import BulkSource
from car.model_version import CODE_VERSION
from cli.bench.cpu import CpuByRole
from cli.bench.ground import Ground
from cli.bench.noop import LABELS, NoFinish, NoModel, fixed
from db import items, listings, results, workers
from db.items import Claimed, Ended
from db.listings import Found
from db.results import NewResult
from db.session import transaction
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.work import Limits, Objects

LEASE = timedelta(seconds=30)
CLAIMS = (1, 8, 32, 64)
_TURNS = 24
_NAME = "bench"


@dataclass(frozen=True)
class Flow:
    """One drain of a queue."""

    items_per_second: float
    cpu_ms: dict[str, float]
    """Of this process, an item, by thread."""
    engines_cpu_ms: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        return {
            "items_per_second": self.items_per_second,
            "cpu_ms_per_item": self.cpu_ms,
            "engines_cpu_ms_per_item": self.engines_cpu_ms,
        }


def flow(ground: Ground, objects: Objects, uris: Sequence[str], *, batch: int, name: str) -> Flow:
    """The real pipeline over one more job with these addresses, from the first claim to the last commit.

    Raises:
        AssertionError: an item did not end as done.

    """
    ground.queue(uris, LABELS)
    pipeline = Pipeline(ground.engine, objects, NoModel(batch), NoFinish(), name, limits=Limits())
    with CpuByRole() as cpu:
        drained = pipeline.drain()
    if drained.done != len(uris):
        raise AssertionError(f"not every item was done: {drained}")

    def each(seconds: dict[str, float]) -> dict[str, float]:
        return {name: round(used / len(uris) * 1000, 4) for name, used in seconds.items() if used > 0}

    return Flow(drained.done / drained.seconds, each(cpu.threads), each(cpu.programs))


def claims(ground: Ground, batch: int) -> float:
    """Milliseconds an item, of so many queued ones."""
    held: list[Claimed] = []

    def claim() -> None:
        with transaction(ground.engine, durable=False) as session:
            held[:] = items.claim(session, _NAME, limit=batch, lease=LEASE)

    def back() -> None:
        _hand_back(ground, held)

    return _typical(claim, back) / batch


def lookups(ground: Ground, batch: int) -> float:
    """Milliseconds an item: what is known, and a reservation for what is not."""
    keys = [hashlib.sha256(os.urandom(16)).hexdigest() for _ in range(batch)]

    def look_up() -> None:
        with transaction(ground.engine, durable=False) as session:
            known = results.known(session, keys)
            results.previews(session, keys)
            results.reserve(session, _NAME, set(keys) - set(known), LEASE)

    def back() -> None:
        with transaction(ground.engine, durable=False) as session:
            results.release_all(session, _NAME)

    return _typical(look_up, back) / batch


def finishes(ground: Ground, batch: int) -> float:
    """Milliseconds an item: new results of claimed items, stored and finished in one durable transaction."""
    with transaction(ground.engine) as session:
        held = items.claim(session, _NAME, limit=batch * (_TURNS + 1), lease=LEASE)
    groups = iter([held[start : start + batch] for start in range(0, len(held), batch)])

    def finish() -> None:
        some = next(groups)
        new = [_result(item) for item in some]
        with transaction(ground.engine) as session:
            ours = items.fence(session, _NAME, some)
            ids = results.store(session, _NAME, new)
            ended = [Ended(item, ids[one.run_key], reused=False) for item, one in zip(some, new, strict=True)]
            if items.finish(session, _NAME, ended) != ours:
                raise AssertionError("an item was not this worker's any more")

    return _typical(finish, lambda: None, turns=len(held) // batch - 1) / batch


def heartbeats(ground: Ground, held: int) -> float:
    """Milliseconds a heartbeat of a worker with so many items in hand."""
    presence = workers.Presence(_NAME, "gpu", "none", dict(NoModel.weights), CODE_VERSION)
    with transaction(ground.engine, durable=False) as session:
        mine = items.claim(session, _NAME, limit=held, lease=LEASE)

    def beat() -> None:
        with transaction(ground.engine, durable=False) as session:
            items.extend(session, _NAME, mine, LEASE)
            results.extend(session, _NAME, LEASE)
            workers.seen(session, presence)

    spent = _typical(beat, lambda: None)
    _hand_back(ground, mine)
    return spent


def listing_rate(ground: Ground, rows: int) -> float:
    """Rows a second: pages of 4,000 addresses into items, each page a durable transaction. The rows go again."""
    job = ground.job(BulkSource.parse("s3://bench/listed/").to_json(), LABELS)
    listing = ground.listing(job, _NAME)
    begun = time.perf_counter()
    for some in _pages(rows):
        with transaction(ground.engine) as session:
            listings.add(session, _NAME, listing, some, cursor={}, lease=LEASE)
    spent = time.perf_counter() - begun
    ground.remove(job)
    return rows / spent


def _pages(rows: int) -> Iterator[list[Found]]:
    for start in range(0, rows, 4_000):
        yield [
            Found(f"s3://bench/listed/{number:09d}.jpg", f"{number:032x}")
            for number in range(start, min(rows, start + 4_000))
        ]


def _hand_back(ground: Ground, held: Sequence[Claimed]) -> None:
    with transaction(ground.engine, durable=False) as session:
        items.hand_back(session, _NAME, held)


def _result(item: Claimed) -> NewResult:
    sha256 = hashlib.sha256(item.uri.encode()).hexdigest()
    return NewResult(
        run_key=hashlib.sha256(f"run {sha256}".encode()).hexdigest(),
        sha256=sha256,
        format="PNG",
        notes=(),
        segmentation=fixed(),
        vocabulary_id=item.vocabulary_id,
        recipe_id=item.recipe_id,
        model_version="bench",
        weights=dict(NoModel.weights),
        code_version=CODE_VERSION,
        device="none",
        masks_key=f"results/{sha256}/masks.json",
        labelmap_key=f"results/{sha256}/labelmap.png",
        preview_key=f"images/{sha256}.jpg",
    )


def _typical(act: Callable[[], None], back: Callable[[], None], *, turns: int = _TURNS) -> float:
    """Milliseconds: the median of some turns, `back` not counted. The first turn warms up."""
    spent = []
    for _ in range(turns + 1):
        begun = time.perf_counter()
        act()
        spent.append((time.perf_counter() - begun) * 1000)
        back()
    return median(spent[1:])
