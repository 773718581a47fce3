"""Publish the outbox: claim, render and send its rows, each independently of the others."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

import structlog
from sqlalchemy import Engine

from car.errors import CarError
from car.object_store import ObjectStore
from db.errors import DatabaseUnreachableError, ObjectMissingError, ObjectStoreError
from db.label_studio import outbox
from db.label_studio.outbox import OutboxRow
from db.results import store as result_store
from db.session import transaction
from worker.label_studio import LabelStudio, LabelStudioError
from worker.label_studio.errors import (
    ForbiddenError,
    OutcomeUncertainError,
    ProjectNotFoundError,
    RejectedError,
    TaskNotFoundError,
)
from worker.label_studio.publish.circuit_breaker import CircuitBreaker
from worker.label_studio.publish.delivery import LeaseExpiringError, send_prediction
from worker.label_studio.publish.duplicate_check import run
from worker.label_studio.publish.rendering import InternalError, render_all

LEASE = timedelta(seconds=120)
"""Longer than a POST, so that a killed worker's POST has ended when another worker looks for its prediction."""
_MARGIN = 5.0
"""Seconds of a lease that must be left after a POST."""
_ROWS_PER_THREAD = 4
_UNCERTAIN = timedelta(seconds=60)
"""The time until a prediction whose POST was not answered is looked for."""
_MAX_INTERNAL_ERRORS = 5
"""Attempts at a row that raises an unexpected exception."""


@dataclass
class PublishStats:
    """What one call did."""

    counts: Counter[str] = field(default_factory=Counter)
    """Rows: rendered, sent, failed, orphaned, rescheduled, released, late."""
    has_more: bool = False
    """The call stopped before all rows were sent."""


class Publisher:
    """Render and send predictions. The circuit breaker's state lasts from one call to the next."""

    def __init__(
        self,
        engine: Engine,
        objects: ObjectStore,
        client: LabelStudio | None,
        worker: str,
        *,
        threads: int = 4,
        preset: str = "voc",
        lease: timedelta = LEASE,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        """Without a `client`, predictions are rendered, for /predict, and not sent."""
        self._engine, self._objects, self._client, self._worker = engine, objects, client, worker
        self._threads, self._preset, self._lease = threads, preset, lease
        self._breaker = breaker or CircuitBreaker()

    def publish(self, *, stop: Callable[[], bool] = lambda: False, seconds: float = float("inf")) -> PublishStats:
        """Render and send rows until there are none, `stop` or `seconds`. Publishers may run at the same time.

        Raises:
            DatabaseUnreachableError: the leases of claimed rows expire.

        """
        stats = PublishStats()
        deadline = time.monotonic() + seconds
        with ThreadPoolExecutor(self._threads, thread_name_prefix="publish") as pool:
            while not stop():
                if time.monotonic() > deadline:
                    stats.has_more = True
                    break
                lease_expires_at = time.monotonic() + self._lease.total_seconds()
                instance = self._client.url if self._client is not None and self._breaker.is_closed else None
                limit = self._threads * _ROWS_PER_THREAD
                with transaction(self._engine) as session:
                    rows = outbox.claim(session, self._worker, limit=limit, lease=self._lease, instance=instance)
                if not rows:
                    break
                to_send = [(row, row.document) for row in rows if row.document is not None]
                to_send += self._render(pool, [row for row in rows if row.document is None], stats.counts)
                send = partial(self._send, lease_expires_at=lease_expires_at, stop=stop)
                for outcomes in pool.map(send, to_send):
                    stats.counts.update(outcomes)
        if self._client is not None and not stats.has_more:
            stats.has_more = run(self._engine, self._client, self._breaker, stop=stop, until=deadline)
        return stats

    # Rendering

    def _render(
        self, pool: ThreadPoolExecutor, rows: Sequence[OutboxRow], counts: Counter[str]
    ) -> list[tuple[OutboxRow, str]]:
        """Render and store documents; return those to send now, whose rows stay leased."""
        to_send: list[tuple[OutboxRow, str, float]] = []
        to_keep: list[tuple[OutboxRow, str, float]] = []
        for group in render_all(pool, self._objects, rows, preset=self._preset):
            for row in group.rows:
                if isinstance(group.outcome, CarError):
                    counts.update([self._refuse(row, group.outcome)])
                else:
                    rendered = (row, group.outcome.text, group.outcome.score)
                    (to_send if self._may_send(row) else to_keep).append(rendered)
        if not to_send and not to_keep:
            return []
        with transaction(self._engine) as session:
            leased = outbox.store_rendered(session, self._worker, to_send, keep=True)
            outbox.store_rendered(session, self._worker, to_keep, keep=False)
        counts["rendered"] += len(to_send) + len(to_keep)
        return [(row, text) for row, text, _ in to_send if row.id in leased]

    def _may_send(self, row: OutboxRow) -> bool:
        return self._client is not None and row.instance == self._client.url and self._breaker.is_closed

    # Sending

    def _send(self, to_send: tuple[OutboxRow, str], *, lease_expires_at: float, stop: Callable[[], bool]) -> list[str]:
        """Send a row; return what to count. Only the database's errors are raised."""
        row, document = to_send
        client = self._client
        if client is None or stop() or not self._breaker.is_closed:
            return [self._release(row)]
        try:
            prediction_id = send_prediction(
                client,
                row,
                document,
                in_time=lambda: time.monotonic() + client.most_seconds + _MARGIN < lease_expires_at,
            )
        except LeaseExpiringError:
            return [self._release(row)]
        except CarError as error:
            return [self._refuse(row, error)]
        except Exception as error:  # noqa: BLE001 - the edge: a row that breaks this code must not stop the others
            structlog.get_logger().exception("sending_failed", prediction=row.id)
            return [self._refuse(row, InternalError(f"{type(error).__name__}: {error}"))]
        self._breaker.record_success()
        with transaction(self._engine) as session:
            is_owned = outbox.mark_sent(session, self._worker, row, prediction_id)
        return ["sent"] if is_owned else [self._resolve_late_send(client, row, prediction_id)]

    def _resolve_late_send(self, client: LabelStudio, row: OutboxRow, prediction_id: int) -> str:
        """Handle a send that outlasted its lease, because this worker was suspended or Label Studio very slow."""
        with transaction(self._engine) as session:
            is_duplicate = outbox.resolve_late_send(session, row.id, prediction_id)
        if is_duplicate:
            try:
                client.delete_prediction(prediction_id)
            except LabelStudioError as error:
                structlog.get_logger().error(
                    "duplicate_delete_failed", prediction=prediction_id, task=row.ls_task_id, reason=str(error)
                )
        return "late"

    # Failing

    def _refuse(self, row: OutboxRow, error: CarError) -> str:
        if isinstance(error, DatabaseUnreachableError):
            raise error
        if isinstance(error, TaskNotFoundError | ProjectNotFoundError):
            self._breaker.record_success()
            with transaction(self._engine) as session:
                outbox.mark_orphaned(session, self._worker, row)
            return "orphaned"
        self._update_breaker(error)
        if isinstance(error, ObjectMissingError):
            with transaction(self._engine) as session:
                result_store.mark_lost(session, row.result_id)
        if self._is_retryable(row, error):
            at_least = _UNCERTAIN if isinstance(error, OutcomeUncertainError) else timedelta(0)
            with transaction(self._engine) as session:
                outbox.reschedule(session, self._worker, row, code=error.code, detail=str(error), at_least=at_least)
            return "rescheduled"
        structlog.get_logger().warning("prediction_failed", task=row.ls_task_id, code=error.code, reason=str(error))
        with transaction(self._engine) as session:
            outbox.fail(session, self._worker, row, code=error.code, detail=str(error))
        return "failed"

    def _update_breaker(self, error: CarError) -> None:
        if isinstance(error, RejectedError | ForbiddenError):  # an answer that concerns this row only
            self._breaker.record_success()
        elif isinstance(error, LabelStudioError):
            self._breaker.record_failure(error)

    def _is_retryable(self, row: OutboxRow, error: CarError) -> bool:
        """Whether the row may succeed later, by itself or after someone has changed a setting."""
        if isinstance(error, ObjectStoreError):
            return True  # the service's own bucket: no fault of the task
        if isinstance(error, InternalError):
            return row.failure_count + 1 < _MAX_INTERNAL_ERRORS
        return error.retryable or (isinstance(error, LabelStudioError) and not isinstance(error, RejectedError))

    def _release(self, row: OutboxRow) -> str:
        with transaction(self._engine) as session:
            outbox.release(session, self._worker, [row])
        return "released"
