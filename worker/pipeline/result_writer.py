"""Write ended items to the database: several in one transaction, each fenced by its attempt."""

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from uuid import UUID

import structlog
from sqlalchemy import Engine

from db.errors import DatabaseUnreachableError
from db.label_studio.outbox import complete_items
from db.queue import items
from db.queue.items import ClaimedItem, CompletedItem, FailedItem
from db.results import store as result_store
from db.results.store import NewResult
from db.session import transaction
from worker.pipeline.owned_items import OwnedItems
from worker.pipeline.types import DrainStats

_MAX_BATCH = 64
_GATHER_SECONDS = 0.02
RELEASE_WAIT = timedelta(seconds=30)
"""Before an item is claimed again that was handed back because the service's own access fails."""


@dataclass(frozen=True)
class ComputedRun:
    """A new result whose objects are stored."""

    item: ClaimedItem
    new: NewResult


@dataclass(frozen=True)
class FailedRun:
    """A run without a result: its first item and all items that wait for it fail alike."""

    run_key: str
    failed: FailedItem


@dataclass(frozen=True)
class ReleasedItem:
    """An item that is handed back without costing an attempt, because the service and not its image is at fault."""

    item: ClaimedItem
    run_key: str | None = None
    """The run of which it is the first item; all items that wait for it are handed back, too."""


Entry = CompletedItem | FailedItem | ComputedRun | FailedRun | ReleasedItem


class ResultWriter:
    """Runs on one thread from `start` to `close`. Entries come from any thread."""

    def __init__(
        self, engine: Engine, worker: str, owned_items: OwnedItems, stats: DrainStats, on_written: Callable[[int], None]
    ) -> None:
        self._engine, self._worker, self._owned_items = engine, worker, owned_items
        self._stats, self._on_written = stats, on_written
        self._entries: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._waiters: dict[str, list[ClaimedItem]] = defaultdict(list)
        self._writing = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="result-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Wait until every entry is written."""
        self._entries.put(None)
        self._thread.join()

    def claim_run(self, run_key: str, item: ClaimedItem) -> bool:
        """Return whether `item` is the run's first, which is to be computed; other items wait and end like it."""
        with self._lock:
            is_first = run_key not in self._waiters
            waiters = self._waiters[run_key]
            if not is_first:
                waiters.append(item)
            return is_first

    @property
    def waiting(self) -> int:
        """Number of entries that are not committed yet. Their images are freed: only rows remain to be written."""
        return self._entries.qsize() + self._writing

    def put(self, entry: Entry) -> None:
        self._entries.put(entry)

    def waiters(self, run_key: str) -> list[ClaimedItem]:
        """Return the items that wait for the run, without its first item."""
        with self._lock:
            return list(self._waiters.get(run_key, ()))

    def _run(self) -> None:
        is_last = False
        while not is_last and (first := self._entries.get()) is not None:
            entries, is_last = self._gather(first)
            self._writing = len(entries)
            self._owned_items.wake()
            self._write(entries)
            self._writing = 0

    def _gather(self, first: Entry) -> tuple[list[Entry], bool]:
        """Wait a moment for more entries, since a commit costs about the same for many; also return whether the queue
        was closed.
        """
        entries: list[Entry] = [first]
        deadline = time.monotonic() + _GATHER_SECONDS
        while len(entries) < _MAX_BATCH:
            try:
                entry = self._entries.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if entry is None:
                return entries, True
            entries.append(entry)
        return entries, False

    def _write(self, entries: list[Entry]) -> None:
        batch = self._sort_entries(entries)
        written, ids = self._commit_with_retry(batch)
        batch_ids = {item.id for item in batch.items}
        for run_key in [*(new.run_key for new in batch.computed), *batch.failed_runs]:
            self._end_run(run_key, batch_ids, ids.get(run_key))
        self._owned_items.discard(batch.items)
        self._count(batch, written)

    def _commit_with_retry(self, batch: "_Batch") -> tuple[set[int], dict[str, UUID]]:
        """Commit, and try again while the database is away and this worker still owns any of the items."""
        wait = 0.2
        while True:
            try:
                return self._commit(batch)
            except DatabaseUnreachableError as error:
                structlog.get_logger().warning("commit_failed", reason=str(error))
                if not any(self._owned_items.owns(item) for item in batch.items):
                    return set(), {}
                time.sleep(wait)
                wait = min(wait * 2, 5.0)
            except Exception:  # noqa: BLE001
                # The edge: rows that cannot be written must not end the worker; their leases expire.
                structlog.get_logger().exception("write_failed", items=[item.id for item in batch.items])
                return set(), {}

    def _end_run(self, run_key: str, batch_ids: set[int], result_id: UUID | None) -> None:
        """Forget a run, and end the items that began to wait for it while it was being written."""
        with self._lock:
            late = [item for item in self._waiters.pop(run_key, []) if item.id not in batch_ids]
        if result_id is None:
            self._owned_items.discard(late)
            return
        for item in late:
            self._entries.put(CompletedItem(item, result_id, reused=True))

    def _sort_entries(self, entries: list[Entry]) -> "_Batch":
        """Sort entries by kind, and add the items that wait for their runs."""
        batch = _Batch()
        for entry in entries:
            if isinstance(entry, CompletedItem):
                batch.reused.append(entry)
            elif isinstance(entry, FailedItem):
                batch.failed.append(entry)
            elif isinstance(entry, ReleasedItem):
                batch.released.append(entry.item)
                if entry.run_key is not None:
                    batch.failed_runs.append(entry.run_key)
                    batch.released += self.waiters(entry.run_key)
            elif isinstance(entry, ComputedRun):
                run_key = entry.new.run_key
                batch.computed.append(entry.new)
                batch.run_items.append((run_key, entry.item, False))
                batch.run_items += [(run_key, item, True) for item in self.waiters(run_key)]
            else:
                batch.failed_runs.append(entry.run_key)
                batch.failed.append(entry.failed)
                batch.failed += [replace(entry.failed, item=item) for item in self.waiters(entry.run_key)]
        return batch

    def _commit(self, batch: "_Batch") -> tuple[set[int], dict[str, UUID]]:
        """Write the batch in one transaction; return the ids of the written items and the result ids by run key."""
        with transaction(self._engine) as session:
            owned = items.lock_owned(session, self._worker, batch.items)
            # A run is stored if this worker still owns any item that asked for it.
            needed = {run_key for run_key, item, _ in batch.run_items if item.id in owned}
            ids = result_store.store(session, self._worker, [new for new in batch.computed if new.run_key in needed])
            completed = [reused for reused in batch.reused if reused.item.id in owned]
            completed += [
                CompletedItem(item, ids[run_key], reused=waited)
                for run_key, item, waited in batch.run_items
                if item.id in owned
            ]
            done = complete_items(session, self._worker, completed)
            failed = items.fail(session, self._worker, [fail for fail in batch.failed if fail.item.id in owned])
            released = [item for item in batch.released if item.id in owned]
            released_ids = items.release(session, self._worker, released, wait=RELEASE_WAIT)
            unneeded = [new.run_key for new in batch.computed if new.run_key not in needed]
            result_store.release(session, [*batch.failed_runs, *unneeded], self._worker)
        return done | failed | released_ids, ids

    def _count(self, batch: "_Batch", written: set[int]) -> None:
        stats = self._stats
        completed = [item.id in written for item in batch.completed_items]
        stats.done += sum(completed)
        stats.dropped += len(completed) - sum(completed)
        stats.failed += sum(failed.item.id in written for failed in batch.failed)
        stats.released += sum(item.id in written for item in batch.released)
        reused = [*(reused.item for reused in batch.reused), *(item for _, item, waited in batch.run_items if waited)]
        stats.reused += sum(item.id in written for item in reused)
        self._on_written(len(written))


@dataclass
class _Batch:
    """Entries of one transaction, by kind."""

    reused: list[CompletedItem] = field(default_factory=list)
    computed: list[NewResult] = field(default_factory=list)
    run_items: list[tuple[str, ClaimedItem, bool]] = field(default_factory=list)
    """The items of `computed`: run key, item, and whether it waited for another item's run."""
    failed: list[FailedItem] = field(default_factory=list)
    released: list[ClaimedItem] = field(default_factory=list)
    failed_runs: list[str] = field(default_factory=list)
    """Keys of the runs whose reservation is to be released."""

    @property
    def completed_items(self) -> list[ClaimedItem]:
        return [*(reused.item for reused in self.reused), *(item for _, item, _ in self.run_items)]

    @property
    def items(self) -> list[ClaimedItem]:
        return [*self.completed_items, *(failed.item for failed in self.failed), *self.released]
