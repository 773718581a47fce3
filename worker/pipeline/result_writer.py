"""What came to an end, into the database: a few items in one transaction, each fenced by its attempt."""

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
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

_AT_ONCE = 64
_GATHER_SECONDS = 0.02


@dataclass(frozen=True)
class ComputedRun:
    """A new result whose objects are stored."""

    item: ClaimedItem
    new: NewResult


@dataclass(frozen=True)
class FailedRun:
    """A run that came to nothing: all that wait for it end like its first item."""

    run_key: str
    failed: FailedItem


Entry = CompletedItem | FailedItem | ComputedRun | FailedRun


class ResultWriter:
    """Runs on one thread from `start` to `close`. Entries come from any thread."""

    def __init__(
        self, engine: Engine, worker: str, hand: OwnedItems, tally: DrainStats, count: Callable[[int], None]
    ) -> None:
        self._engine, self._worker, self._hand, self._tally, self._count = engine, worker, hand, tally, count
        self._entries: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._followers: dict[str, list[ClaimedItem]] = defaultdict(list)
        self._writing = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """When every entry is written."""
        self._entries.put(None)
        self._thread.join()

    def claim_run(self, run_key: str, item: ClaimedItem) -> bool:
        """Whether `item` is the first in hand that asks for this run; the others end as it does."""
        with self._lock:
            first = run_key not in self._followers
            followers = self._followers[run_key]
            if not first:
                followers.append(item)
            return first

    @property
    def waiting(self) -> int:
        """Entries that are not committed yet. Their pictures are out of memory: only rows are left to be written."""
        return self._entries.qsize() + self._writing

    def item_ended(self, one: CompletedItem) -> None:
        self._entries.put(one)

    def item_failed(self, one: FailedItem) -> None:
        self._entries.put(one)

    def computed(self, item: ClaimedItem, new: NewResult) -> None:
        self._entries.put(ComputedRun(item, new))

    def run_failed(self, run_key: str, failed: FailedItem) -> None:
        self._entries.put(FailedRun(run_key, failed))

    def waiters(self, run_key: str) -> list[ClaimedItem]:
        """Who waits for the run besides its first item."""
        with self._lock:
            return list(self._followers.get(run_key, ()))

    def _run(self) -> None:
        while True:
            first = self._entries.get()
            if first is None:
                return
            some, last = self._gather(first)
            self._writing = len(some)
            self._hand.wake()
            self._write(some)
            self._writing = 0
            if last:
                return

    def _gather(self, first: Entry) -> tuple[list[Entry], bool]:
        """A commit costs about as much for many as for one, so it waits a moment for more."""
        some: list[Entry] = [first]
        until = time.monotonic() + _GATHER_SECONDS
        while len(some) < _AT_ONCE:
            try:
                one = self._entries.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if one is None:
                return some, True
            some.append(one)
        return some, False

    def _write(self, some: list[Entry]) -> None:
        settled = self._settled(some)
        touched = [*settled.ended_items, *(one.item for one in settled.failed)]
        written, ids = self._insist(settled, touched)
        for run_key in [*(one.new.run_key for one in settled.computed), *settled.spoilt]:
            self._release(run_key, {item.id for item in touched}, ids.get(run_key))
        self._hand.discard(touched)
        self._take_down(settled, written)

    def _insist(self, settled: "_Settled", touched: list[ClaimedItem]) -> tuple[set[int], dict[str, UUID]]:
        """Commit, again and again while the database is away and anything is still ours."""
        wait = 0.2
        while True:
            try:
                return self._commit(settled)
            except DatabaseUnreachableError as error:
                structlog.get_logger().warning("commit_failed", reason=str(error))
                if not any(self._hand.owns(item) for item in touched):
                    return set(), {}
                time.sleep(wait)
                wait = min(wait * 2, 5.0)
            except Exception:  # noqa: BLE001
                # The edge: rows that cannot be written must not end the worker; their leases run out.
                structlog.get_logger().exception("commit_broke", items=[item.id for item in touched])
                return set(), {}

    def _release(self, run_key: str, known: set[int], result_id: UUID | None) -> None:
        """The run is over: who joined while it was being written ends with it too."""
        with self._lock:
            late = [item for item in self._followers.pop(run_key, []) if item.id not in known]
        if result_id is None:
            self._hand.discard(late)
            return
        for item in late:
            self._entries.put(CompletedItem(item, result_id, reused=True))

    def _settled(self, some: list[Entry]) -> "_Settled":
        """Followers join the run they waited for."""
        settled = _Settled()
        for one in some:
            if isinstance(one, CompletedItem):
                settled.reused.append(one)
            elif isinstance(one, FailedItem):
                settled.failed.append(one)
            elif isinstance(one, ComputedRun):
                settled.computed.append(one)
                settled.followers += [(one.new.run_key, item) for item in self.waiters(one.new.run_key)]
            else:
                settled.spoilt.append(one.run_key)
                waiting, first = self.waiters(one.run_key), one.failed
                settled.failed += [first, *(FailedItem(f, first.code, first.detail, first.retryable) for f in waiting)]
        return settled

    def _commit(self, settled: "_Settled") -> tuple[set[int], dict[str, UUID]]:
        with transaction(self._engine) as session:
            ours = items.lock_owned(
                session, self._worker, [*settled.ended_items, *(one.item for one in settled.failed)]
            )
            # A run is stored where anyone who asked for it still may.
            asked = {one.new.run_key for one in settled.computed if one.item.id in ours}
            asked |= {run_key for run_key, item in settled.followers if item.id in ours}
            new = [one.new for one in settled.computed if one.new.run_key in asked]
            ids = result_store.store(session, self._worker, new)
            ended = [one for one in settled.reused if one.item.id in ours]
            ended += [
                CompletedItem(one.item, ids[one.new.run_key], reused=False)
                for one in settled.computed
                if one.item.id in ours
            ]
            ended += [CompletedItem(item, ids[key], reused=True) for key, item in settled.followers if item.id in ours]
            done = complete_items(session, self._worker, ended)
            failed = items.fail(session, self._worker, [one for one in settled.failed if one.item.id in ours])
            unasked = [one.new.run_key for one in settled.computed if one.new.run_key not in asked]
            result_store.release(session, [*settled.spoilt, *unasked], self._worker)
        return done | failed, ids

    def _take_down(self, settled: "_Settled", written: set[int]) -> None:
        ended = settled.ended_items
        self._tally.done += sum(item.id in written for item in ended)
        self._tally.failed += sum(one.item.id in written for one in settled.failed)
        self._tally.reused += sum(one.item.id in written for one in settled.reused)
        self._tally.reused += sum(item.id in written for _, item in settled.followers)
        self._tally.dropped += sum(item.id not in written for item in ended)
        self._count(len(written))


@dataclass
class _Settled:
    """Entries by what is to be done."""

    reused: list[CompletedItem] = field(default_factory=list)
    computed: list[ComputedRun] = field(default_factory=list)
    followers: list[tuple[str, ClaimedItem]] = field(default_factory=list)
    """Run key and item of those that waited for one of `computed`."""
    failed: list[FailedItem] = field(default_factory=list)
    spoilt: list[str] = field(default_factory=list)
    """Run keys that nobody computes any more."""

    @property
    def ended_items(self) -> list[ClaimedItem]:
        waiting = [item for _, item in self.followers]
        return [*(one.item for one in self.reused), *(one.item for one in self.computed), *waiting]
