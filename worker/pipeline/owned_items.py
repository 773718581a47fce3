"""What this worker has in hand, and the heartbeat that keeps it there."""

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
    """The claimed items that have not come to an end yet. Thread-safe; `changed` is notified when it shrinks."""

    def __init__(self) -> None:
        self._items: dict[int, ClaimedItem] = {}
        self._bytes: dict[int, int] = {}
        self._lost: set[tuple[int, int]] = set()
        self.changed = threading.Condition()

    def add(self, claimed: Iterable[ClaimedItem]) -> None:
        with self.changed:
            self._items |= {item.id: item for item in claimed}

    def discard(self, ended: Iterable[ClaimedItem]) -> None:
        """They came to an end, whichever."""
        with self.changed:
            for item in ended:
                if self._items.get(item.id) == item:
                    del self._items[item.id]
                    self._bytes.pop(item.id, None)
                self._lost.discard((item.id, item.attempt))
            self.changed.notify_all()

    def mark_lost(self, lost: Iterable[ClaimedItem]) -> None:
        """They are another worker's by now, or were cancelled: nothing of them is to be written."""
        with self.changed:
            self._lost |= {(item.id, item.attempt) for item in lost if self._items.get(item.id) == item}
            self.changed.notify_all()

    def owns(self, item: ClaimedItem) -> bool:
        with self.changed:
            return self._items.get(item.id) == item and (item.id, item.attempt) not in self._lost

    @property
    def has_isolated(self) -> bool:
        """A suspect is in hand: nothing may come beside it."""
        with self.changed:
            return any(item.isolated for item in self._items.values())

    def set_bytes(self, item: ClaimedItem, size: int) -> None:
        """Its picture takes so many bytes from now on, until it is dropped."""
        with self.changed:
            if self._items.get(item.id) == item:
                self._bytes[item.id] = size

    @property
    def bytes(self) -> int:
        """Of all pictures that are here."""
        with self.changed:
            return sum(self._bytes.values())

    def all(self) -> list[ClaimedItem]:
        with self.changed:
            return [item for item in self._items.values() if (item.id, item.attempt) not in self._lost]

    def wake(self) -> None:
        """Whoever waits may look again."""
        with self.changed:
            self.changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Until something came to an end, or so long."""
        with self.changed:
            self.changed.wait(seconds)

    def __len__(self) -> int:
        with self.changed:
            return len(self._items)


class Heartbeat:
    """Extends the leases of a hand every third of a lease, on a thread of its own."""

    def __init__(self, engine: Engine, presence: workers.WorkerInfo, hand: OwnedItems, lease: timedelta) -> None:
        self._engine, self._presence, self._hand, self._lease = engine, presence, hand, lease
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
        """Items that ended, for the worker's row."""
        self._finished += finished

    def _run(self) -> None:
        while not self._stop.wait(self._lease.total_seconds() / 3):
            try:
                self._beat()
            except DatabaseUnreachableError as error:
                structlog.get_logger().warning("heartbeat_failed", reason=str(error))
                if time.monotonic() > self._good_until:
                    # The leases have run out, so what comes now would be refused: somebody else has begun it.
                    self._hand.mark_lost(self._hand.all())

    def _beat(self) -> None:
        held = self._hand.all()
        begun = time.monotonic()
        finished, self._finished = self._finished, 0
        with transaction(self._engine, durable=False) as session:
            ours = items.extend(session, self._presence.name, held, self._lease)
            result_store.extend(session, self._presence.name, self._lease)
            workers.heartbeat(session, self._presence, finished=finished)
        self._good_until = begun + self._lease.total_seconds()
        # An item may have ended, or been handed back, between the two looks; to lose it then means nothing.
        self._hand.mark_lost([item for item in held if item.id not in ours])
