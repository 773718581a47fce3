"""Claim, fetch, decode, look up: what is known already never reaches the model."""

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import structlog
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from car.errors import CarError
from car.model_version import model_version, run_key
from db import vocabularies
from db.errors import DatabaseUnreachableError
from db.queue import items
from db.queue.items import ClaimedItem, CompletedItem, FailedItem
from db.results import store as result_store
from db.session import transaction
from worker.images import open_image
from worker.images.fetch import name_of
from worker.pipeline.adaptive_limit import AdaptiveLimit
from worker.pipeline.owned_items import OwnedItems
from worker.pipeline.ready_queue import ReadyQueue
from worker.pipeline.result_writer import ResultWriter
from worker.pipeline.types import FetchedItem, ImageReader, Limits, Model, RunSpec

_LOOKUP_AT_ONCE = 64
_ELSEWHERE = timedelta(seconds=2)
"""A picture that another worker computes right now is looked at again after it."""
_POLL_SECONDS = 0.2
_PLENTY_SECONDS = 5.0
_INTERACTIVE_THREADS = 2
"""Fetch what somebody waits for, past all that was claimed before."""
_WISHES_KEPT = 256
"""Vocabularies may be as many as pictures. Those in hand are kept by their pictures."""


class Intake:
    """Runs on two threads and a pool of fetchers until nothing is left to claim, or it is told to stop."""

    def __init__(
        self,
        engine: Engine,
        pictures: ImageReader,
        worker: str,
        model: Model,
        limits: Limits,
        *,
        hand: OwnedItems,
        window: AdaptiveLimit,
        waiting: ReadyQueue,
        ledger: ResultWriter,
        plenty: Callable[[], object],
    ) -> None:
        self._engine, self._pictures, self._worker, self._model, self._limits = engine, pictures, worker, model, limits
        self._hand, self._window, self._waiting, self._ledger, self._plenty = hand, window, waiting, ledger, plenty
        self._said_plenty = 0.0
        self._wishes: OrderedDict[tuple[UUID, UUID], RunSpec | CarError] = OrderedDict()
        self._fetched: queue.SimpleQueue[FetchedItem | None] = queue.SimpleQueue()
        self._fetchers = ThreadPoolExecutor(limits.fetch_threads, thread_name_prefix="fetch")
        self._at_once = ThreadPoolExecutor(_INTERACTIVE_THREADS, thread_name_prefix="fetch-at-once")
        self._ending = threading.Event()
        self._lookup = threading.Thread(target=self._look_up_all, name="lookup", daemon=True)
        self.broke: Exception | None = None
        self.more = False
        """Whether it was told to stop while there may have been something to claim."""

    def run(self, stopped: Callable[[], bool], leaving: Callable[[], bool]) -> None:
        """Claims until there is nothing, and nothing in hand, or until `stopped`: what it claimed is fetched all the
        same, unless the worker is `leaving`. Tells the model at its end that no more will come.
        """
        self._lookup.start()
        try:
            while not stopped():
                # Looked at before the claim: what ends meanwhile may have kept a suspect from being claimed.
                idle = not len(self._hand)
                claimed = self._claim()
                if not claimed and idle:
                    return
                if not claimed:
                    self._hand.wait(_POLL_SECONDS)
            self.more = True
        except Exception as error:  # noqa: BLE001 - told by whoever waits for this thread
            self.broke = error
        finally:
            # What a worker that leaves has not begun to fetch stays in hand, to be handed back.
            told = leaving()
            if told:
                self._ending.set()
            for pool in (self._fetchers, self._at_once):
                pool.shutdown(cancel_futures=told)
            self._fetched.put(None)
            self._lookup.join()
            self._waiting.close()

    @property
    def full(self) -> bool:
        """Whether there is no room for another batch, so that nothing is claimed. Claims are cheap by the dozen and
        dear one by one.
        """
        return len(self._hand) > 0 and self._room < self._model.batch

    @property
    def _room(self) -> int:
        held, most = len(self._hand), self._window.size
        # What only waits for its commit holds no picture, so the next may come meanwhile; but not without end.
        return min(most - held + self._ledger.waiting, 2 * most - held)

    def _claim(self) -> list[ClaimedItem]:
        held, room = len(self._hand), self._room
        if held and (room < self._model.batch or self._hand.has_isolated):
            return []
        try:
            with transaction(self._engine, durable=False) as session:
                claimed = items.claim(session, self._worker, limit=room, lease=self._limits.lease, occupied=held > 0)
                wishes = [self._load_run_spec(session, item) for item in claimed]
        except DatabaseUnreachableError as error:
            structlog.get_logger().warning("claim_failed", reason=str(error))
            self._hand.wait(1.0)
            return []
        if len(claimed) == room and time.monotonic() - self._said_plenty > _PLENTY_SECONDS:
            self._said_plenty = time.monotonic()
            self._plenty()
        self._hand.add(claimed)
        for item, wish in zip(claimed, wishes, strict=True):
            pool = self._at_once if item.interactive else self._fetchers
            pool.submit(self._fetch, item, wish)
        return claimed

    def _load_run_spec(self, session: Session, item: ClaimedItem) -> RunSpec | CarError:
        """The item's vocabulary and recipe, or why this worker cannot follow them; it keeps the last ones it met."""
        key = (item.vocabulary_id, item.recipe_id)
        if key in self._wishes:
            self._wishes.move_to_end(key)
            return self._wishes[key]
        while len(self._wishes) >= _WISHES_KEPT:
            self._wishes.popitem(last=False)
        self._wishes[key] = wish = self._build_run_spec(session, *key)
        return wish

    def _build_run_spec(self, session: Session, vocabulary_id: UUID, recipe_id: UUID) -> RunSpec | CarError:
        vocabulary = vocabularies.get(session, vocabulary_id).vocabulary
        recipe = vocabularies.recipe(session, recipe_id).recipe
        try:
            weights = self._model.weights_for(recipe)
        except CarError as error:
            return error
        version = model_version(weights, recipe, vocabulary)
        return RunSpec(vocabulary_id, recipe_id, vocabulary, recipe, weights, version)

    def _fetch(self, item: ClaimedItem, wish: RunSpec | CarError) -> None:
        """On a fetcher's thread: to the lookup, or to the ledger as failed."""
        if not self._waited_for_memory(item):
            return
        if not self._hand.owns(item):
            self._forget(item)
            return
        if isinstance(wish, CarError):
            self._fail(FailedItem(item, wish.code, str(wish), wish.retryable))
            return
        try:
            data = self._pictures.read(item.uri, instance=item.instance, task=item.ls_task_id)
            picture = open_image(data, self._limits.images, name=name_of(item.uri))
        except CarError as error:
            self._fail(FailedItem(item, error.code, str(error), error.retryable))
        except Exception as error:  # noqa: BLE001 - the edge: one bad picture never ends its neighbours
            structlog.get_logger().exception("fetch_broke", uri=item.uri)
            self._fail(FailedItem(item, "internal_error", f"{type(error).__name__}: {error}", retryable=False))
        else:
            self._hand.set_bytes(item, picture.pixels.nbytes)
            key = run_key(picture.sha256, wish.weights, wish.recipe, wish.vocabulary)
            self._fetched.put(FetchedItem(item, wish, picture, key))

    def _waited_for_memory(self, item: ClaimedItem) -> bool:
        """Whether there is room for one more picture: False where the worker ends before, and it is handed back. Who
        somebody waits for never stands in this line.
        """
        while not item.interactive and self._hand.bytes >= self._limits.max_image_bytes:
            if self._ending.is_set():
                return False
            self._hand.wait(_POLL_SECONDS)
        return True

    def _look_up_all(self) -> None:
        while True:
            first = self._fetched.get()
            if first is None:
                return
            some = [first]
            while len(some) < _LOOKUP_AT_ONCE and not self._fetched.empty():
                one = self._fetched.get()
                if one is None:
                    self._look_up(some)
                    return
                some.append(one)
            self._look_up(some)

    def _look_up(self, some: list[FetchedItem]) -> None:
        """Known ones to the ledger, those in another worker's hand back to the queue, the rest to the model."""
        keys = {one.run_key for one in some}
        try:
            with transaction(self._engine, durable=False) as session:
                known = result_store.known(session, keys)
                ours = result_store.reserve(session, self._worker, keys - set(known), self._limits.lease)
                # Who gave a reservation back since the first look has stored the result in the same commit.
                late = result_store.known(session, ours)
                result_store.release(session, late, self._worker)
                known, ours = known | late, ours - set(late)
                shown = result_store.previews(session, [one.image.sha256 for one in some if one.run_key in ours])
                elsewhere = [one.item for one in some if one.run_key not in known and one.run_key not in ours]
                items.release(session, self._worker, elsewhere, wait=_ELSEWHERE)
        except Exception as error:  # noqa: BLE001 - the edge: this thread must go on, or the worker would hang
            if not isinstance(error, CarError):
                structlog.get_logger().exception("lookup_broke")
            code = error.code if isinstance(error, CarError) else "internal_error"
            for one in some:
                self._fail(FailedItem(one.item, code, str(error), retryable=True))
            return
        for item in elsewhere:
            self._forget(item)
        for one in some:
            if one.run_key in known:
                self._ledger.item_ended(CompletedItem(one.item, known[one.run_key], reused=True))
            # The second of two equal pictures waits for the first.
            elif one.run_key in ours and self._ledger.claim_run(one.run_key, one.item):
                self._waiting.put(replace(one, preview_key=shown.get(one.image.sha256)))

    def _fail(self, failed: FailedItem) -> None:
        self._ledger.item_failed(failed)

    def _forget(self, item: ClaimedItem) -> None:
        self._hand.discard([item])
