"""The worker's pipeline. Its stages run on their own threads, so that the model's thread only computes."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import structlog
from sqlalchemy import Engine

from car.errors import CarError
from car.model_version import CODE_VERSION
from car.object_store import ObjectStore
from car.segmentation import Segmentation
from db.errors import DatabaseUnreachableError, ObjectStoreError
from db.queue import items, workers
from db.queue.items import FailedItem
from db.results import store as result_store
from db.results.store import NewResult
from db.session import transaction
from worker.errors import OutOfMemoryError, describe_error
from worker.images.fetch import ImageFetcher
from worker.pipeline.adaptive_limit import AdaptiveLimit
from worker.pipeline.intake import Intake
from worker.pipeline.owned_items import Heartbeat, OwnedItems
from worker.pipeline.ready_queue import ReadyQueue
from worker.pipeline.result_objects import store_objects
from worker.pipeline.result_writer import ComputedRun, FailedRun, ReleasedItem, ResultWriter
from worker.pipeline.types import DrainStats, FetchedItem, Limits, Model, Postprocess, Scheduler

Stop = Callable[[], bool]


@dataclass
class Pipeline:
    """Claims, segments and stores images. It knows neither Celery nor the command line."""

    engine: Engine
    objects: ObjectStore
    model: Model
    postprocess: Postprocess
    name: str
    """Unique name of this worker process."""
    queue: str = "gpu"
    limits: Limits = field(default_factory=Limits)
    image_reader: ImageFetcher | None = None
    """None: S3 through `objects`, and public web addresses."""

    @cached_property
    def reader(self) -> ImageFetcher:
        """The image reader of all calls, which keeps connections open."""
        return self.image_reader or ImageFetcher(self.objects, max_bytes=self.limits.images.max_bytes)

    @cached_property
    def adaptive_limit(self) -> AdaptiveLimit:
        """The limit on claimed images; it keeps what it learned from one call to the next."""
        return self.limits.adaptive_limit(self.model.batch)

    @property
    def worker_info(self) -> workers.WorkerInfo:
        return workers.WorkerInfo(self.name, self.queue, self.model.device, dict(self.model.weights), CODE_VERSION)

    def close(self) -> None:
        """Close open connections."""
        self.reader.close()

    def run_until_idle(
        self,
        *,
        stop: Stop = lambda: False,
        seconds: float = float("inf"),
        on_backlog: Callable[[], object] = lambda: None,
    ) -> DrainStats:
        """Work until there is nothing left to claim.

        After `seconds` nothing more is claimed, and what is claimed is finished. After `stop` only what the model has
        started is finished, and everything else is released without costing an attempt. `on_backlog` is called now and
        then while there is more work than this worker can claim.
        """
        return _Run(self, stop, time.monotonic() + seconds, on_backlog).run()


class _Run:
    """One call of `run_until_idle`."""

    def __init__(self, pipeline: Pipeline, stop: Stop, deadline: float, on_backlog: Callable[[], object]) -> None:
        self._pipeline, self._stop, self._deadline = pipeline, stop, deadline
        limits, model = pipeline.limits, pipeline.model
        self._stats = DrainStats()
        self._owned_items = OwnedItems()
        self._ready_queue = ReadyQueue()
        self._heartbeat = Heartbeat(pipeline.engine, pipeline.worker_info, self._owned_items, limits.lease)
        self._result_writer = ResultWriter(
            pipeline.engine, pipeline.name, self._owned_items, self._stats, self._heartbeat.count
        )
        self._intake = Intake(
            pipeline.engine,
            pipeline.objects,
            pipeline.reader,
            pipeline.name,
            model,
            limits,
            owned_items=self._owned_items,
            adaptive_limit=pipeline.adaptive_limit,
            ready_queue=self._ready_queue,
            result_writer=self._result_writer,
            on_backlog=on_backlog,
        )
        self._storing = ThreadPoolExecutor(limits.store_threads, thread_name_prefix="store")
        self._max_pending = limits.claim_factor * model.batch + limits.store_threads
        self._pending = threading.Semaphore(self._max_pending)
        """Images between the model and the result writer; its bound keeps the model from running ahead of storing."""
        self._ended = threading.Event()
        self._grace_over = threading.Event()
        self._broken = threading.Event()

    def run(self) -> DrainStats:
        started = time.monotonic()
        intake = threading.Thread(
            target=self._intake.run, args=(self._is_closing, self._is_leaving), name="intake", daemon=True
        )
        grace = threading.Thread(target=self._watch_grace, name="grace", daemon=True)
        with self._heartbeat:
            self._result_writer.start()
            intake.start()
            grace.start()
            try:
                self._compute(started)
            except BaseException:
                # The model takes no more images, so claiming ends and owned items are released.
                self._broken.set()
                raise
            finally:
                intake.join()
                self._finish_pending()
                self._ended.set()
                grace.join()
                self._release()
        self._stats.seconds = time.monotonic() - started
        self._stats.has_more = self._intake.has_more
        if self._intake.error is not None:
            raise self._intake.error
        return self._stats

    def _is_closing(self) -> bool:
        return self._is_leaving() or time.monotonic() > self._deadline

    def _is_leaving(self) -> bool:
        return self._stop() or self._broken.is_set()

    # The model's thread

    def _compute(self, started: float) -> None:
        """Segment until the ready queue is closed and empty. After `stop`, start nothing more, and finish what the
        model has started unless the grace period ends first.
        """
        scheduler = self._pipeline.model.scheduler()
        while not self._grace_over.is_set():
            for fetched in self._take_ready(scheduler):
                scheduler.add_request(
                    fetched,
                    fetched.image.pixels,
                    fetched.spec.vocabulary,
                    fetched.spec.recipe,
                    still_wanted=partial(self._may_start, fetched),
                )
            if not len(scheduler):
                return
            if self._stats.first_step_seconds is None:
                self._stats.first_step_seconds = time.monotonic() - started
            for fetched, outcome in self._step(scheduler):
                self._submit_postprocess(fetched, outcome)

    def _take_ready(self, scheduler: Scheduler) -> list[FetchedItem]:
        if self._stop():
            return []
        room, is_idle = scheduler.room, not len(scheduler)
        ready = self._ready_queue.take(room, wait=False)
        # Before the first step waiting cannot be avoided.
        starved = self._stats.model_steps > 0 and len(ready) < room and self._intake.full
        if is_idle and not ready:
            ready = self._ready_queue.take(room, wait=True)
        self._pipeline.adaptive_limit.record(len(ready), waiting=len(self._ready_queue), starved=starved)
        return ready

    def _step(self, scheduler: Scheduler) -> list[tuple[FetchedItem, Any]]:
        started, shortages = time.monotonic(), scheduler.shortages
        ready = scheduler.step()
        self._stats.busy_seconds += time.monotonic() - started
        self._stats.model_steps += 1
        if scheduler.shortages > shortages:
            structlog.get_logger().warning("memory_shortage", images=len(scheduler), device=self._pipeline.model.device)
        return ready

    def _may_start(self, fetched: FetchedItem) -> bool:
        return not self._stop() and self._is_needed(fetched)

    def _is_needed(self, fetched: FetchedItem) -> bool:
        """Return whether this worker owns any item of the run; cancelled and reclaimed items are not computed."""
        waiters = self._result_writer.waiters(fetched.run_key)
        return any(self._owned_items.owns(item) for item in (fetched.item, *waiters))

    def _submit_postprocess(self, fetched: FetchedItem, outcome: Any) -> None:  # noqa: ANN401 - see Scheduler.step
        if outcome is None:
            if not self._is_needed(fetched):  # otherwise the item is released
                failed = FailedItem(fetched.item, "cancelled", "the item was cancelled or reclaimed", retryable=True)
                self._result_writer.put(FailedRun(fetched.run_key, failed))
            return
        if isinstance(outcome, Exception):
            self._fail_run(fetched, outcome, "segment_failed")
            return
        self._pending.acquire()
        try:
            self._pipeline.postprocess.submit(outcome).add_done_callback(partial(self._submit_store, fetched))
        except Exception as error:  # noqa: BLE001 - the edge
            self._pending.release()
            self._fail_run(fetched, error, "postprocess_failed")

    def _fail_run(self, fetched: FetchedItem, error: Exception, event: str) -> None:
        if isinstance(error, MemoryError):
            size = f"{fetched.image.width} x {fetched.image.height}"
            error = OutOfMemoryError(f"an image of {size} pixels needs more memory than the device has; scale it down")
        if not isinstance(error, CarError):
            structlog.get_logger().error(event, uri=fetched.item.uri, exc_info=error)
        self._result_writer.put(FailedRun(fetched.run_key, FailedItem(fetched.item, *describe_error(error))))

    # Other threads

    def _submit_store(self, fetched: FetchedItem, postprocessed: Future[Segmentation]) -> None:
        try:
            self._storing.submit(self._store, fetched, postprocessed)
        except RuntimeError:  # the pool is closed, and owned items are released
            self._pending.release()

    def _store(self, fetched: FetchedItem, postprocessed: Future[Segmentation]) -> None:
        try:
            segmentation = postprocessed.result()
            try:
                keys = store_objects(self._pipeline.objects, fetched, segmentation)
            except ObjectStoreError as error:  # of the service's own bucket, whatever the image
                self._intake.pause(error)
                self._result_writer.put(ReleasedItem(fetched.item, fetched.run_key))
                return
            self._result_writer.put(ComputedRun(fetched.item, self._new_result(fetched, segmentation, *keys)))
        except Exception as error:  # noqa: BLE001 - the edge
            self._fail_run(fetched, error, "postprocess_failed")
        finally:
            self._pending.release()

    def _new_result(
        self, fetched: FetchedItem, segmentation: Segmentation, masks_key: str, labelmap_key: str, preview_key: str
    ) -> NewResult:
        return NewResult(
            run_key=fetched.run_key,
            sha256=fetched.image.sha256,
            format=fetched.image.format,
            notes=fetched.image.notes,
            segmentation=segmentation,
            vocabulary_id=fetched.spec.vocabulary_id,
            recipe_id=fetched.spec.recipe_id,
            model_version=fetched.spec.model_version,
            weights=dict(fetched.spec.weights),
            code_version=CODE_VERSION,
            device=self._pipeline.model.device,
            masks_key=masks_key,
            labelmap_key=labelmap_key,
            preview_key=preview_key,
        )

    def _finish_pending(self) -> None:
        """Wait until everything that the model returned is stored and written."""
        for _ in range(self._max_pending):
            self._pending.acquire()
        self._storing.shutdown()
        self._result_writer.close()

    def _watch_grace(self) -> None:
        """After `stop`, release what is not finished within the grace period; results that come later are dropped."""
        while not self._ended.wait(0.1):
            if self._stop():
                if not self._ended.wait(self._pipeline.limits.grace_seconds):
                    self._grace_over.set()
                    self._release()
                return

    def _release(self) -> None:
        """Release all owned items. If the database is away, their leases expire instead."""
        owned = self._owned_items.all()
        try:
            with transaction(self._pipeline.engine) as session:
                back = items.release(session, self._pipeline.name, owned)
                result_store.release_all(session, self._pipeline.name)
                self._stats.released += len(back)
        except DatabaseUnreachableError as error:
            structlog.get_logger().warning("release_failed", reason=str(error))
        self._owned_items.mark_lost(owned)
