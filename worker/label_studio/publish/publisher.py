"""The outbox emptied: rows claimed, rendered and sent, each on its own, so that none stops its neighbours."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta

import structlog
from sqlalchemy import Engine

from car.errors import CarError
from db.errors import DatabaseUnreachableError
from db.label_studio import outbox
from db.label_studio.outbox import OutboxRow
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
from worker.label_studio.publish.rendering import Gettable, InternalError, render_all

LEASE = timedelta(seconds=120)
"""A killed worker's POST has long ended when another one asks Label Studio whether it was stored."""
_MARGIN = 5.0
_ROWS_A_THREAD = 4
_UNCERTAIN = timedelta(seconds=60)
"""The time that a POST without an answer is given to be stored, before it is looked for."""
_BREAKS = 5
"""Attempts at a row that breaks this code."""

SendQueue = tuple[OutboxRow, str]
"""A row to be sent, and its document."""


@dataclass
class PublishStats:
    """What one call did."""

    counts: Counter[str] = field(default_factory=Counter)
    """Rows: rendered, sent, failed, orphaned, put_off, handed_back, strays."""
    has_more: bool = False
    """It ended before its work did."""


class Publisher:
    """Keeps from one call to the next what it learnt of Label Studio."""

    def __init__(
        self,
        engine: Engine,
        objects: Gettable,
        client: LabelStudio | None,
        worker: str,
        *,
        threads: int = 4,
        preset: str = "voc",
        lease: timedelta = LEASE,
        gate: CircuitBreaker | None = None,
    ) -> None:
        """Without a `client` documents are made for /predict to answer with, and nothing is sent."""
        self._engine, self._objects, self._client, self._worker = engine, objects, client, worker
        self._threads, self._preset, self._lease = threads, preset, lease
        self._gate = gate or CircuitBreaker()

    def publish(self, *, stop: Callable[[], bool] = lambda: False, seconds: float = float("inf")) -> PublishStats:
        """Render and send what waits, for about so long. Any number of publishers may do so at once.

        Raises:
            DatabaseUnreachableError: what was in hand comes back when its lease has run out.

        """
        done = PublishStats()
        ends = time.monotonic() + seconds
        with ThreadPoolExecutor(self._threads, thread_name_prefix="publish") as pool:
            while not stop():
                if time.monotonic() > ends:
                    done.has_more = True
                    break
                lease_expires_at = time.monotonic() + self._lease.total_seconds()
                sending = self._client is not None and self._gate.is_closed
                rows = self._claim(self._client.url if self._client and sending else None)
                if not rows:
                    break
                self._round(pool, rows, done.counts, lease_expires_at, stop)
        if self._client is not None and not done.has_more:
            done.has_more = run(self._engine, self._client, self._gate, stop=stop, until=ends)
        return done

    def _claim(self, instance: str | None) -> list[OutboxRow]:
        limit = self._threads * _ROWS_A_THREAD
        with transaction(self._engine) as session:
            return outbox.claim(session, self._worker, limit=limit, lease=self._lease, instance=instance)

    def _round(
        self,
        pool: ThreadPoolExecutor,
        rows: Sequence[OutboxRow],
        counts: Counter[str],
        lease_expires_at: float,
        stop: Callable[[], bool],
    ) -> None:
        ready = [(row, row.document) for row in rows if row.document is not None]
        ready += self._render(pool, [row for row in rows if row.document is None], counts)
        outcomes = pool.map(lambda wanted: self._send(wanted, lease_expires_at, stop), ready)
        for outcome in outcomes:
            counts.update(outcome)

    # Rendering

    def _render(self, pool: ThreadPoolExecutor, rows: Sequence[OutboxRow], counts: Counter[str]) -> list[SendQueue]:
        """Documents made and kept; those that are to be sent now, still leased."""
        ours: list[tuple[OutboxRow, str, float]] = []
        others: list[tuple[OutboxRow, str, float]] = []
        for group in render_all(pool, self._objects, rows, preset=self._preset):
            for row in group.rows:
                if isinstance(group.made, CarError):
                    counts.update([self._refuse(row, group.made)])
                else:
                    (ours if self._may_send(row) else others).append((row, group.made.text, group.made.score))
        if not ours and not others:
            return []
        with transaction(self._engine) as session:
            kept = outbox.store_rendered(session, self._worker, ours, keep=True)
            outbox.store_rendered(session, self._worker, others, keep=False)
        counts["rendered"] += len(ours) + len(others)
        return [(row, text) for row, text, _ in ours if row.id in kept]

    def _may_send(self, row: OutboxRow) -> bool:
        return self._client is not None and row.instance == self._client.url and self._gate.is_closed

    # Sending

    def _send(self, wanted: SendQueue, lease_expires_at: float, stop: Callable[[], bool]) -> list[str]:
        """What became of a row; no error but the database's leaves this function."""
        row, document = wanted
        client = self._client
        if client is None or stop() or not self._gate.is_closed:
            return [self._hand_back(row)]
        try:
            number = send_prediction(
                client,
                row,
                document,
                in_time=lambda: time.monotonic() + client.most_seconds + _MARGIN < lease_expires_at,
            )
        except LeaseExpiringError:
            return [self._hand_back(row)]
        except CarError as error:
            return [self._refuse(row, error)]
        except Exception as error:  # noqa: BLE001 - the edge: a row that breaks this code must not stop its neighbours
            structlog.get_logger().exception("sending_broke", prediction=row.id)
            return [self._refuse(row, InternalError(f"{type(error).__name__}: {error}"))]
        self._gate.record_success()
        with transaction(self._engine) as session:
            ours = outbox.mark_sent(session, self._worker, row, number)
        return ["sent"] if ours else [self._settle(client, row, number)]

    def _settle(self, client: LabelStudio, row: OutboxRow, number: int) -> str:
        """The lease ran out while it was being sent: this worker was frozen, or Label Studio very slow."""
        with transaction(self._engine) as session:
            doubled = outbox.resolve_late_send(session, row.id, number)
        if doubled:
            try:
                client.delete_prediction(number)
            except LabelStudioError as error:
                structlog.get_logger().error(
                    "double_prediction_stays", prediction=number, task=row.ls_task_id, why=str(error)
                )
        return "strays"

    # Ends that are not the good one

    def _refuse(self, row: OutboxRow, error: CarError) -> str:
        if isinstance(error, DatabaseUnreachableError):
            raise error
        if isinstance(error, TaskNotFoundError | ProjectNotFoundError):
            self._gate.record_success()
            with transaction(self._engine) as session:
                outbox.mark_orphaned(session, self._worker, row)
            return "orphaned"
        self._tell_gate(error)
        if self._passes(row, error):
            at_least = _UNCERTAIN if isinstance(error, OutcomeUncertainError) else timedelta(0)
            with transaction(self._engine) as session:
                outbox.reschedule(session, self._worker, row, code=error.code, detail=str(error), at_least=at_least)
            return "put_off"
        structlog.get_logger().warning("prediction_failed", task=row.ls_task_id, code=error.code, reason=str(error))
        with transaction(self._engine) as session:
            outbox.fail(session, self._worker, row, code=error.code, detail=str(error))
        return "failed"

    def _tell_gate(self, error: CarError) -> None:
        if isinstance(error, RejectedError | ForbiddenError):  # it answered, about this row alone
            self._gate.record_success()
        elif isinstance(error, LabelStudioError):
            self._gate.record_failure(error)

    def _passes(self, row: OutboxRow, error: CarError) -> bool:
        """Whether time, or somebody who sets things right, may help."""
        if isinstance(error, InternalError):
            return row.failure_count + 1 < _BREAKS
        return error.retryable or (isinstance(error, LabelStudioError) and not isinstance(error, RejectedError))

    def _hand_back(self, row: OutboxRow) -> str:
        with transaction(self._engine) as session:
            outbox.release(session, self._worker, [row])
        return "handed_back"
