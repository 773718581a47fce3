"""The worker's flow, put together: the model's thread only ever computes."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import structlog
from sqlalchemy import Engine

from car.errors import CarError
from car.model_version import CODE_VERSION
from car.segmentation import Segmentation
from db.errors import DatabaseUnreachableError
from db.queue import items, workers
from db.queue.items import ClaimedItem, FailedItem
from db.results import store as result_store
from db.results.store import NewResult
from db.session import transaction
from worker.errors import OutOfMemoryError
from worker.images.fetch import ImageFetcher
from worker.pipeline.adaptive_limit import AdaptiveLimit
from worker.pipeline.intake import Intake
from worker.pipeline.owned_items import Heartbeat, OwnedItems
from worker.pipeline.ready_queue import ReadyQueue
from worker.pipeline.result_objects import store_objects
from worker.pipeline.result_writer import ResultWriter
from worker.pipeline.types import DrainStats, FetchedItem, ImageReader, Limits, Model, Objects, Postprocess, Scheduler

Stop = Callable[[], bool]


@dataclass
class Pipeline:
    """Claims, computes and stores until nothing is left. It knows no Celery and no command line."""

    engine: Engine
    objects: Objects
    model: Model
    postprocess: Postprocess
    name: str
    """Of this worker process; never used twice."""
    queue: str = "gpu"
    limits: Limits = field(default_factory=Limits)
    image_reader: ImageReader | None = None
    """None: S3 by `objects`, and the public web."""

    @cached_property
    def sources(self) -> ImageReader:
        """What pictures are read by; one for all calls, for it keeps connections."""
        return self.image_reader or ImageFetcher(self.objects, max_bytes=self.limits.images.max_bytes)

    @cached_property
    def adaptive_limit(self) -> AdaptiveLimit:
        """How many pictures are in hand; one for all calls, for it learns."""
        return self.limits.adaptive_limit(self.model.batch)

    @property
    def presence(self) -> workers.WorkerInfo:
        """What this worker says of itself."""
        return workers.WorkerInfo(self.name, self.queue, self.model.device, dict(self.model.weights), CODE_VERSION)

    def close(self) -> None:
        """At the end of the process: connections that were kept open."""
        self.sources.close()

    def run_until_idle(
        self,
        *,
        stop: Stop = lambda: False,
        seconds: float = float("inf"),
        on_backlog: Callable[[], object] = lambda: None,
    ) -> DrainStats:
        """Work until there is none. After `seconds` nothing more is claimed, and what is in hand is brought to its end;
        when `stop` says to, only what the model has begun, and everything else is handed back, at no cost of an
        attempt. `plenty` is called, now and then, while there is more than this worker can take.
        """
        return _Run(self, stop, time.monotonic() + seconds, on_backlog).run()


class _Run:
    """One call of `drain`."""

    def __init__(self, pipeline: Pipeline, stop: Stop, deadline: float, plenty: Callable[[], object]) -> None:
        self._p, self._stop, self._deadline = pipeline, stop, deadline
        limits, model = pipeline.limits, pipeline.model
        self._tally = DrainStats()
        self._hand = OwnedItems()
        self._waiting = ReadyQueue()
        self._heartbeat = Heartbeat(pipeline.engine, pipeline.presence, self._hand, limits.lease)
        self._ledger = ResultWriter(pipeline.engine, pipeline.name, self._hand, self._tally, self._heartbeat.count)
        self._intake = Intake(
            pipeline.engine,
            pipeline.sources,
            pipeline.name,
            model,
            limits,
            hand=self._hand,
            window=pipeline.adaptive_limit,
            waiting=self._waiting,
            ledger=self._ledger,
            plenty=plenty,
        )
        self._storing = ThreadPoolExecutor(limits.store_threads, thread_name_prefix="store")
        self._unfinished = threading.Semaphore(limits.claim_factor * model.batch + limits.store_threads)
        self._ended = threading.Event()
        self._given_up = threading.Event()
        self._broken = threading.Event()

    def run(self) -> DrainStats:
        begun = time.monotonic()
        intake = threading.Thread(
            target=self._intake.run, args=(self._closing, self._leaving), name="intake", daemon=True
        )
        grace = threading.Thread(target=self._watch, name="grace", daemon=True)
        with self._heartbeat:
            self._ledger.start()
            intake.start()
            grace.start()
            try:
                self._compute(begun)
            except BaseException:
                # Nobody takes pictures any more, so nothing is to be claimed either, and what is in hand goes back.
                self._broken.set()
                raise
            finally:
                intake.join()
                self._finish_all()
                self._ended.set()
                grace.join()
                self._release()
        self._tally.seconds = time.monotonic() - begun
        self._tally.has_more = self._intake.more
        if self._intake.broke is not None:
            raise self._intake.broke
        return self._tally

    def _closing(self) -> bool:
        return self._leaving() or time.monotonic() > self._deadline

    def _leaving(self) -> bool:
        return self._stop() or self._broken.is_set()

    # The model's thread

    def _compute(self, begun: float) -> None:
        """Told to stop, it begins nothing more; what has begun comes to its end, unless the grace is over before."""
        flow = self._p.model.scheduler()
        while not self._given_up.is_set():
            for one in self._more(flow):
                flow.add_request(
                    one, one.image.pixels, one.spec.vocabulary, one.spec.recipe, still_wanted=partial(self._begins, one)
                )
            if not len(flow):
                return
            if self._tally.first_step_seconds is None:
                self._tally.first_step_seconds = time.monotonic() - begun
            for one, found in self._turn(flow):
                self._submit_postprocess(one, found)

    def _more(self, flow: Scheduler) -> list[FetchedItem]:
        if self._stop():
            return []
        room, idle = flow.room, not len(flow)
        some = self._waiting.take(room, wait=False)
        # Before the first turn waiting cannot be avoided.
        starved = self._tally.model_steps > 0 and len(some) < room and self._intake.full
        if idle and not some:
            some = self._waiting.take(room, wait=True)
        self._p.adaptive_limit.record(len(some), waiting=len(self._waiting), starved=starved)
        return some

    def _turn(self, flow: Scheduler) -> list[tuple[FetchedItem, Any]]:
        begun, shortages = time.monotonic(), flow.shortages
        ready = flow.step()
        self._tally.busy_seconds += time.monotonic() - begun
        self._tally.model_steps += 1
        if flow.shortages > shortages:
            structlog.get_logger().warning("memory_short", pictures=len(flow), device=self._p.model.device)
        return ready

    def _begins(self, one: FetchedItem) -> bool:
        return not self._stop() and self._wanted(one)

    def _wanted(self, one: FetchedItem) -> bool:
        """Whether anyone still waits for it: cancelled and reaped items are dropped here."""
        return any(self._hand.owns(item) for item in (one.item, *self._ledger.waiters(one.run_key)))

    def _submit_postprocess(self, one: FetchedItem, found: Any) -> None:  # noqa: ANN401 - whatever the model gave
        if found is None:
            if not self._wanted(one):  # and otherwise it is handed back
                nobody = FailedItem(one.item, "cancelled", "nobody waits for it any more", retryable=True)
                self._ledger.run_failed(one.run_key, nobody)
            return
        if isinstance(found, Exception):
            self._fail_run(one, found, "segment_broke")
            return
        self._unfinished.acquire()
        try:
            self._p.postprocess.submit(found).add_done_callback(self._storer(one))
        except Exception as error:  # noqa: BLE001 - the edge
            self._unfinished.release()
            self._fail_run(one, error, "finish_broke")

    def _fail_run(self, one: FetchedItem, error: Exception, where: str) -> None:
        if not isinstance(error, CarError | MemoryError):
            structlog.get_logger().error(where, uri=one.item.uri, exc_info=error)
        self._ledger.run_failed(one.run_key, _failure(one, error))

    # Other threads

    def _storer(self, one: FetchedItem) -> Callable[[Future[Segmentation]], None]:
        def store(done: Future[Segmentation]) -> None:
            try:
                self._storing.submit(self._store, one, done)
            except RuntimeError:  # the pool has been closed: what is in hand is handed back
                self._unfinished.release()

        return store

    def _store(self, one: FetchedItem, done: Future[Segmentation]) -> None:
        try:
            found = done.result()
            keys = store_objects(self._p.objects, one, found)
            self._ledger.computed(one.item, self._result(one, found, *keys))
        except Exception as error:  # noqa: BLE001 - the edge
            self._fail_run(one, error, "finish_broke")
        finally:
            self._unfinished.release()

    def _result(self, one: FetchedItem, found: Segmentation, masks: str, labelmap: str, shown: str) -> NewResult:
        return NewResult(
            run_key=one.run_key,
            sha256=one.image.sha256,
            format=one.image.format,
            notes=one.image.notes,
            segmentation=found,
            vocabulary_id=one.spec.vocabulary_id,
            recipe_id=one.spec.recipe_id,
            model_version=one.spec.model_version,
            weights=dict(one.spec.weights),
            code_version=CODE_VERSION,
            device=self._p.model.device,
            masks_key=masks,
            labelmap_key=labelmap,
            preview_key=shown,
        )

    def _finish_all(self) -> None:
        """Everything begun comes to its end, and into the database."""
        for _ in range(self._p.limits.claim_factor * self._p.model.batch + self._p.limits.store_threads):
            self._unfinished.acquire()
        self._storing.shutdown()
        self._ledger.close()

    def _watch(self) -> None:
        """What does not come to an end within the grace is handed back too; should it come later, it is dropped."""
        while not self._ended.wait(0.1):
            if self._stop():
                if not self._ended.wait(self._p.limits.grace_seconds):
                    self._given_up.set()
                    self._release()
                return

    def _release(self) -> None:
        rest = self._hand.all()
        with _tried("hand_back"), transaction(self._p.engine) as session:
            back = items.release(session, self._p.name, rest)
            result_store.release_all(session, self._p.name)
            self._tally.released += len(back)
        self._hand.mark_lost(rest)


def _failure(one: FetchedItem, error: Exception) -> FailedItem:
    item: ClaimedItem = one.item
    if isinstance(error, MemoryError):
        size = f"{one.image.width} x {one.image.height}"
        error = OutOfMemoryError(f"{size} pixels need more memory than there is; scale it down")
    if isinstance(error, CarError):
        return FailedItem(item, error.code, str(error), error.retryable)
    return FailedItem(item, "internal_error", f"{type(error).__name__}: {error}", retryable=False)


@contextmanager
def _tried(what: str) -> Iterator[None]:
    """A database that is away makes no difference: leases run out by themselves."""
    try:
        yield
    except DatabaseUnreachableError as error:
        structlog.get_logger().warning(f"{what}_failed", reason=str(error))
