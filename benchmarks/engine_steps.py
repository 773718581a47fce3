"""The cost of each step of the engine."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from statistics import median

from sqlalchemy import delete

from car.bulk_source import BulkSource
from car.model_version import CODE_VERSION
from cli.commands.bench.environment import BenchEnvironment
from cli.commands.bench.fake_model import LABELS, FakeSegmenter, fake_segmentation
from db.models import Job
from db.queue import items, listings, workers
from db.queue.items import ClaimedItem, CompletedItem
from db.queue.listings import ListedObject
from db.results import store as result_store
from db.results.store import NewResult
from db.session import transaction

LEASE = timedelta(seconds=30)
CLAIM_SIZES = (1, 8, 32, 64)
_TURNS = 24
_NAME = "bench"


def claims(environment: BenchEnvironment, batch: int) -> float:
    """Return the milliseconds per item of claiming `batch` items."""
    held: list[ClaimedItem] = []

    def claim() -> None:
        with transaction(environment.engine, durable=False) as session:
            held[:] = items.claim(session, _NAME, limit=batch, lease=LEASE)

    return _median_ms(claim, lambda: _release(environment, held)) / batch


def lookups(environment: BenchEnvironment, batch: int) -> float:
    """Return the milliseconds per item of looking up results and reserving runs for those that are missing."""
    keys = [hashlib.sha256(os.urandom(16)).hexdigest() for _ in range(batch)]

    def look_up() -> None:
        with transaction(environment.engine, durable=False) as session:
            existing = result_store.existing(session, keys)
            result_store.previews(session, keys)
            result_store.reserve(session, _NAME, set(keys) - set(existing), LEASE)

    def release() -> None:
        with transaction(environment.engine, durable=False) as session:
            result_store.release_all(session, _NAME)

    return _median_ms(look_up, release) / batch


def finishes(environment: BenchEnvironment, batch: int) -> float:
    """Return the milliseconds per item of storing results and completing items in one durable transaction."""
    with transaction(environment.engine) as session:
        held = items.claim(session, _NAME, limit=batch * (_TURNS + 1), lease=LEASE)
    groups = iter([held[start : start + batch] for start in range(0, len(held), batch)])

    def finish() -> None:
        batch_items = next(groups)
        new = [_new_result(item) for item in batch_items]
        with transaction(environment.engine) as session:
            owned = items.lock_owned(session, _NAME, batch_items)
            ids = result_store.store(session, _NAME, new)
            ended = [
                CompletedItem(item, ids[result.run_key], reused=False)
                for item, result in zip(batch_items, new, strict=True)
            ]
            if items.complete(session, _NAME, ended) != owned:
                raise AssertionError("this worker lost an item")

    return _median_ms(finish, lambda: None, turns=len(held) // batch - 1) / batch


def heartbeats(environment: BenchEnvironment, held: int) -> float:
    """Return the milliseconds of a heartbeat of a worker that owns `held` items."""
    presence = workers.WorkerInfo(_NAME, "gpu", "none", dict(FakeSegmenter.weights), CODE_VERSION)
    with transaction(environment.engine, durable=False) as session:
        claimed = items.claim(session, _NAME, limit=held, lease=LEASE)

    def heartbeat() -> None:
        with transaction(environment.engine, durable=False) as session:
            items.extend(session, _NAME, claimed, LEASE)
            result_store.extend(session, _NAME, LEASE)
            workers.heartbeat(session, presence)

    spent = _median_ms(heartbeat, lambda: None)
    _release(environment, claimed)
    return spent


def listing_rate(environment: BenchEnvironment, rows: int) -> float:
    """Return rows per second of listing, in pages of 4,000 addresses, each a durable transaction; delete them again."""
    job = environment.create_job(BulkSource.parse("s3://bench/listed/").to_json(), LABELS)
    with transaction(environment.engine) as session:
        listing = listings.claim(session, _NAME, LEASE)
    if listing is None:
        raise AssertionError("the new job cannot be listed")
    start = time.perf_counter()
    for page in _pages(rows):
        with transaction(environment.engine) as session:
            listings.add(session, _NAME, listing, page, cursor={}, lease=LEASE)
    spent = time.perf_counter() - start
    with transaction(environment.engine) as session:
        session.execute(delete(Job).where(Job.id == job))
    return rows / spent


def _pages(rows: int) -> Iterator[list[ListedObject]]:
    for start in range(0, rows, 4_000):
        yield [
            ListedObject(f"s3://bench/listed/{number:09d}.jpg", f"{number:032x}")
            for number in range(start, min(rows, start + 4_000))
        ]


def _release(environment: BenchEnvironment, held: Sequence[ClaimedItem]) -> None:
    with transaction(environment.engine, durable=False) as session:
        items.release(session, _NAME, held)


def _new_result(item: ClaimedItem) -> NewResult:
    sha256 = hashlib.sha256(item.uri.encode()).hexdigest()
    return NewResult(
        run_key=hashlib.sha256(f"run {sha256}".encode()).hexdigest(),
        sha256=sha256,
        format="PNG",
        notes=(),
        segmentation=fake_segmentation(),
        vocabulary_id=item.vocabulary_id,
        recipe_id=item.recipe_id,
        model_version="bench",
        weights=dict(FakeSegmenter.weights),
        code_version=CODE_VERSION,
        device="none",
        masks_key=f"results/{sha256}/masks.json",
        labelmap_key=f"results/{sha256}/labelmap.png",
        preview_key=f"images/{sha256}.jpg",
    )


def _median_ms(act: Callable[[], None], undo: Callable[[], None], *, turns: int = _TURNS) -> float:
    """The median time of some turns without `undo`. The first turn warms up."""
    spent = []
    for _ in range(turns + 1):
        begun = time.perf_counter()
        act()
        spent.append((time.perf_counter() - begun) * 1000)
        undo()
    return median(spent[1:])
