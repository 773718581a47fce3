"""The items that a worker has claimed and not yet ended, and the heartbeat that keeps their leases."""

import threading
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Self

import structlog
from sqlalchemy import Engine

from db.errors import DatabaseUnreachableError
from db.queue import items, workers
from db.queue.items import ClaimedItem
from db.results import store as result_store
from db.session import transaction


class OwnedItems:
    """A thread-safe set of claimed items; `wait` returns when it changes."""

    def __init__(self) -> None:
        self._items: dict[int, ClaimedItem] = {}
        self._bytes: dict[int, int] = {}
        self._lost: set[tuple[int, int]] = set()
        self._changed = threading.Condition()

    def add(self, claimed: Iterable[ClaimedItem]) -> None:
        with self._changed:
            self._items |= {item.id: item for item in claimed}

    def discard(self, ended: Iterable[ClaimedItem]) -> None:
        """Remove items that ended, in whatever way."""
        with self._changed:
            for item in ended:
                if self._items.get(item.id) == item:
                    del self._items[item.id]
                    self._bytes.pop(item.id, None)
                self._lost.discard((item.id, item.attempt))
            self._changed.notify_all()

    def mark_lost(self, lost: Iterable[ClaimedItem]) -> None:
        """Mark items that another worker has reclaimed, or that were cancelled: their results must not be written."""
        with self._changed:
            self._lost |= {(item.id, item.attempt) for item in lost if self._items.get(item.id) == item}
            self._changed.notify_all()

    def owns(self, item: ClaimedItem) -> bool:
        with self._changed:
            return self._items.get(item.id) == item and (item.id, item.attempt) not in self._lost

    @property
    def has_isolated(self) -> bool:
        """Whether an item must be computed with no neighbours, so that nothing more may be claimed."""
        with self._changed:
            return any(item.isolated for item in self._items.values())

    def set_bytes(self, item: ClaimedItem, size: int) -> None:
        """Record the memory of the item's decoded image, until the item is discarded."""
        with self._changed:
            if self._items.get(item.id) == item:
                self._bytes[item.id] = size

    @property
    def bytes(self) -> int:
        """Memory of all decoded images."""
        with self._changed:
            return sum(self._bytes.values())

    def all(self) -> list[ClaimedItem]:
        """All items that are not lost."""
        with self._changed:
            return [item for item in self._items.values() if (item.id, item.attempt) not in self._lost]

    def wake(self) -> None:
        """Wake the threads in `wait`."""
        with self._changed:
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait until an item ends, `wake` or for `seconds`."""
        with self._changed:
            self._changed.wait(seconds)

    def __len__(self) -> int:
        with self._changed:
            return len(self._items)


class Heartbeat:
    """A thread that extends the leases of owned items three times per lease."""

    def __init__(
        self, engine: Engine, worker_info: workers.WorkerInfo, owned_items: OwnedItems, lease: timedelta
    ) -> None:
        self._engine, self._worker_info, self._owned_items, self._lease = engine, worker_info, owned_items, lease
        self._stop = threading.Event()
        self._finished = 0
        self._good_until = time.monotonic() + lease.total_seconds()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def count(self, finished: int) -> None:
        """Add ended items to the count in the worker's row."""
        self._finished += finished

    def _run(self) -> None:
        while not self._stop.wait(self._lease.total_seconds() / 3):
            try:
                self._extend_leases()
            except DatabaseUnreachableError as error:
                structlog.get_logger().warning("heartbeat_failed", reason=str(error))
                if time.monotonic() > self._good_until:
                    # The leases have expired, so the database would refuse these results.
                    self._owned_items.mark_lost(self._owned_items.all())

    def _extend_leases(self) -> None:
        owned = self._owned_items.all()
        started = time.monotonic()
        finished, self._finished = self._finished, 0
        with transaction(self._engine, durable=False) as session:
            extended = items.extend(session, self._worker_info.name, owned, self._lease)
            result_store.extend(session, self._worker_info.name, self._lease)
            workers.heartbeat(session, self._worker_info, finished=finished)
        self._good_until = started + self._lease.total_seconds()
        # An item may have ended or been released between the two reads; marking it lost then has no effect.
        self._owned_items.mark_lost([item for item in owned if item.id not in extended])
