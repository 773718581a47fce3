"""Claim items, fetch and decode their images, and look up their runs: a known result never reaches the model."""

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import structlog
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from car.bulk_source import displayed_address
from car.errors import CarError
from car.model_version import model_version, run_key
from car.object_store import ObjectStore
from db import vocabularies
from db.errors import DatabaseUnreachableError, ObjectMissingError, ObjectStoreError, ServiceAccessError
from db.queue import items
from db.queue.items import ClaimedItem, CompletedItem, FailedItem
from db.results import store as result_store
from db.session import transaction
from worker.errors import describe_error
from worker.images import open_image
from worker.images.fetch import ImageFetcher
from worker.pipeline.adaptive_limit import AdaptiveLimit
from worker.pipeline.owned_items import OwnedItems
from worker.pipeline.ready_queue import ReadyQueue
from worker.pipeline.result_writer import ReleasedItem, ResultWriter
from worker.pipeline.types import FetchedItem, Limits, Model, RunSpec

_LOOKUP_BATCH = 64
_RETRY_RESERVED = timedelta(seconds=2)
"""An item whose run another worker computes is claimed again after this time."""
_POLL_SECONDS = 0.2
_BACKLOG_SECONDS = 5.0
_INTERACTIVE_THREADS = 2
"""Fetch interactive images ahead of all that were claimed before."""
_RUN_SPECS = 256
"""Run specs in the cache: each image may have its own vocabulary. Fetched items hold theirs themselves."""


class Intake:
    """Runs on two threads and a pool of fetchers until there is nothing left to claim or it is stopped."""

    def __init__(
        self,
        engine: Engine,
        objects: ObjectStore,
        image_reader: ImageFetcher,
        worker: str,
        model: Model,
        limits: Limits,
        *,
        owned_items: OwnedItems,
        adaptive_limit: AdaptiveLimit,
        ready_queue: ReadyQueue,
        result_writer: ResultWriter,
        on_backlog: Callable[[], object],
    ) -> None:
        self._engine, self._objects, self._image_reader, self._worker = engine, objects, image_reader, worker
        self._model, self._limits = model, limits
        self._owned_items, self._adaptive_limit, self._ready_queue = owned_items, adaptive_limit, ready_queue
        self._result_writer, self._on_backlog = result_writer, on_backlog
        self._backlog_reported = 0.0
        self._run_specs: OrderedDict[tuple[UUID, UUID], RunSpec | CarError] = OrderedDict()
        self._fetched: queue.SimpleQueue[FetchedItem | None] = queue.SimpleQueue()
        self._fetchers = ThreadPoolExecutor(limits.fetch_threads, thread_name_prefix="fetch")
        self._interactive_fetchers = ThreadPoolExecutor(_INTERACTIVE_THREADS, thread_name_prefix="fetch-interactive")
        self._verifiers = ThreadPoolExecutor(limits.fetch_threads, thread_name_prefix="verify")
        self._ending = threading.Event()
        self._paused = threading.Lock()
        """Taken by the first fault of the service's own access, and never released."""
        self._lookup = threading.Thread(target=self._run_lookups, name="lookup", daemon=True)
        self.error: Exception | None = None
        self.has_more = False
        """Whether it was stopped while there may have been something to claim."""

    def run(self, is_closing: Callable[[], bool], is_leaving: Callable[[], bool]) -> None:
        """Claim until nothing is left to claim and nothing is owned, or until `is_closing`; then close the ready queue.

        Claimed images are still fetched when closing, but not when the worker `is_leaving`.
        """
        self._lookup.start()
        try:
            while not is_closing():
                # Read before the claim: items that end in between may have kept an isolated one from being claimed.
                is_idle = not len(self._owned_items)
                claimed = self._claim()
                if not claimed and is_idle:
                    return
                if not claimed:
                    self._owned_items.wait(_POLL_SECONDS)
            self.has_more = True
        except Exception as error:  # noqa: BLE001 - raised by the thread that joins this one
            self.error = error
        finally:
            # A leaving worker keeps items that it has not started to fetch, and releases them at its end.
            leaving = is_leaving()
            if leaving:
                self._ending.set()
            for pool in (self._fetchers, self._interactive_fetchers):
                pool.shutdown(cancel_futures=leaving)
            self._fetched.put(None)
            self._lookup.join()
            self._verifiers.shutdown()
            self._ready_queue.close()

    def pause(self, error: CarError) -> None:
        """Claim nothing more in this run: the service's own access fails, and every image would fail with it. The
        scheduler's next notification starts a new run.
        """
        if self._paused.acquire(blocking=False):
            structlog.get_logger().error("worker_paused", code=error.code, reason=str(error))

    @property
    def full(self) -> bool:
        """Whether there is no room for another batch. Nothing is claimed then: a claim of one costs as much as a claim
        of a dozen.
        """
        return len(self._owned_items) > 0 and self._room < self._model.batch

    @property
    def _room(self) -> int:
        owned, limit = len(self._owned_items), self._adaptive_limit.size
        # Items that wait only for their commit hold no image, so they do not count, up to once the limit.
        return min(limit - owned + self._result_writer.waiting, 2 * limit - owned)

    def _claim(self) -> list[ClaimedItem]:
        owned, room = len(self._owned_items), self._room
        if self._paused.locked() or (owned and (room < self._model.batch or self._owned_items.has_isolated)):
            return []
        try:
            with transaction(self._engine, durable=False) as session:
                claimed = items.claim(session, self._worker, limit=room, lease=self._limits.lease, occupied=owned > 0)
                specs = [self._load_run_spec(session, item) for item in claimed]
        except DatabaseUnreachableError as error:
            structlog.get_logger().warning("claim_failed", reason=str(error))
            self._owned_items.wait(1.0)
            return []
        if len(claimed) == room and time.monotonic() - self._backlog_reported > _BACKLOG_SECONDS:
            self._backlog_reported = time.monotonic()
            self._on_backlog()
        self._owned_items.add(claimed)
        for item, spec in zip(claimed, specs, strict=True):
            pool = self._interactive_fetchers if item.interactive else self._fetchers
            pool.submit(self._fetch, item, spec)
        return claimed

    def _load_run_spec(self, session: Session, item: ClaimedItem) -> RunSpec | CarError:
        """Return the item's run spec from the cache or the database, or the error that this worker fails it with."""
        key = (item.vocabulary_id, item.recipe_id)
        if key in self._run_specs:
            self._run_specs.move_to_end(key)
            return self._run_specs[key]
        while len(self._run_specs) >= _RUN_SPECS:
            self._run_specs.popitem(last=False)
        self._run_specs[key] = spec = self._build_run_spec(session, *key)
        return spec

    def _build_run_spec(self, session: Session, vocabulary_id: UUID, recipe_id: UUID) -> RunSpec | CarError:
        vocabulary = vocabularies.get(session, vocabulary_id).vocabulary
        recipe = vocabularies.recipe(session, recipe_id).recipe
        try:
            weights = self._model.weights_for(recipe)
        except CarError as error:
            return error
        version = model_version(weights, recipe, vocabulary)
        return RunSpec(vocabulary_id, recipe_id, vocabulary, recipe, weights, version)

    def _fetch(self, item: ClaimedItem, spec: RunSpec | CarError) -> None:
        """Fetch and decode on a fetcher's thread; pass the image to the lookup, or a failure to the result writer."""
        if not self._wait_for_memory(item):
            return
        if not self._owned_items.owns(item):
            self._owned_items.discard([item])
            return
        if isinstance(spec, CarError):
            self._result_writer.put(FailedItem(item, *describe_error(spec)))
            return
        try:
            data = self._image_reader.read(item.uri, instance=item.instance, task=item.ls_task_id)
            image = open_image(data, self._limits.images, name=displayed_address(item.uri))
        except Exception as error:  # noqa: BLE001 - the edge: one bad image must not end the others
            if isinstance(error, ServiceAccessError):
                self.pause(error)
                self._result_writer.put(ReleasedItem(item))
                return
            if not isinstance(error, CarError):
                structlog.get_logger().exception("fetch_failed", uri=item.uri)
            self._result_writer.put(FailedItem(item, *describe_error(error)))
        else:
            self._owned_items.set_bytes(item, image.pixels.nbytes)
            key = run_key(image.sha256, spec.weights, spec.recipe, spec.vocabulary)
            self._fetched.put(FetchedItem(item, spec, image, key))

    def _wait_for_memory(self, item: ClaimedItem) -> bool:
        """Wait for room for one more image, interactive ones excepted; False if the worker ends first."""
        while not item.interactive and self._owned_items.bytes >= self._limits.max_image_bytes:
            if self._ending.is_set():
                return False
            self._owned_items.wait(_POLL_SECONDS)
        return True

    def _run_lookups(self) -> None:
        while (first := self._fetched.get()) is not None:
            batch = [first]
            while len(batch) < _LOOKUP_BATCH and not self._fetched.empty():
                fetched = self._fetched.get()
                if fetched is None:
                    self._look_up(batch)
                    return
                batch.append(fetched)
            self._look_up(batch)

    def _find_lost(self, object_keys: Mapping[str, tuple[str, str]]) -> set[str]:
        """Return the runs whose objects are gone, as a lifecycle rule may remove them; they are computed again under
        the same keys. A server that does not answer counts as one that has them.
        """

        def is_lost(keys: tuple[str, str]) -> bool:
            try:
                for key in keys:
                    self._objects.head(self._objects.bucket, key)
            except ObjectMissingError:
                return True
            except ObjectStoreError:
                pass
            return False

        lost = list(self._verifiers.map(is_lost, object_keys.values()))
        return {run_key for run_key, is_gone in zip(object_keys, lost, strict=True) if is_gone}

    def _look_up(self, batch: list[FetchedItem]) -> None:
        """Complete items with a stored result, release those that another worker computes, and queue the others."""
        keys = {fetched.run_key for fetched in batch}
        try:
            with transaction(self._engine, durable=False) as session:
                object_keys = result_store.object_keys(session, keys)
            lost = self._find_lost(object_keys)
            with transaction(self._engine, durable=False) as session:
                stored = result_store.existing(session, keys - lost)
                reserved = result_store.reserve(session, self._worker, keys - set(stored), self._limits.lease)
                # A worker stores a result and releases its reservation in one commit, maybe since the first query.
                just_stored = result_store.existing(session, reserved - lost)
                result_store.release(session, just_stored, self._worker)
                stored, reserved = stored | just_stored, reserved - set(just_stored)
                previews = result_store.previews(
                    session, [fetched.image.sha256 for fetched in batch if fetched.run_key in reserved - lost]
                )
                elsewhere = [fetched.item for fetched in batch if fetched.run_key not in stored.keys() | reserved]
                items.release(session, self._worker, elsewhere, wait=_RETRY_RESERVED)
        except Exception as error:  # noqa: BLE001 - the edge: this thread must go on, or the worker would hang
            if not isinstance(error, CarError):
                structlog.get_logger().exception("lookup_failed")
            failure = describe_error(error)._replace(retryable=True)
            for fetched in batch:
                self._result_writer.put(FailedItem(fetched.item, *failure))
            return
        self._owned_items.discard(elsewhere)
        for fetched in batch:
            if fetched.run_key in stored:
                self._result_writer.put(CompletedItem(fetched.item, stored[fetched.run_key], reused=True))
            # Of items with equal runs only the first is computed.
            elif fetched.run_key in reserved and self._result_writer.claim_run(fetched.run_key, fetched.item):
                self._ready_queue.put(replace(fetched, preview_key=previews.get(fetched.image.sha256)))
