"""State transitions of items. Every write of a worker is fenced (db.leases).

queued ──claim──> running ──complete──> done
  ^                 │ ├──fail────────> failed
  ├──fail (waits)───┤ └──(cancel)────> cancelled
  ├──release────────┤
  └──reclaim_expired┴──reclaim_expired, the third time──> dead
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from uuid import UUID

from sqlalchemy.orm import Session

from db import leases
from db.models import PRIORITY_ORDER, Priority

MAX_LOST_LEASES = 3
"""Lost workers after which an item is dead."""
MAX_FAILURES = 6
"""Attempts at an item with retryable errors. The waits between them add up to about eight minutes."""

ITEMS = leases.LeasedTable(
    name="item",
    due="state = 'queued'",
    held="state = 'running'",
    on_claim="state = 'running', error_code = NULL, error_detail = NULL",
    on_release="state = 'queued'",
    may_retry=f"failure_count + 1 < {MAX_FAILURES}",
    on_failure="state = CASE WHEN {again} THEN 'queued' ELSE 'failed' END, "
    "finished_at = CASE WHEN {again} THEN NULL ELSE now() END, error_code = owned.code, error_detail = owned.detail",
)


@dataclass(frozen=True, slots=True)
class ClaimedItem:
    """An item that belongs to this worker until its lease expires."""

    id: int
    attempt: int
    job_id: UUID
    uri: str
    etag: str
    isolated: bool
    vocabulary_id: UUID
    """The item's own vocabulary, or its job's."""
    recipe_id: UUID
    instance: str | None = None
    """The Label Studio of the image's task."""
    ls_task_id: int | None = None
    """The task through which the image is fetched there."""
    priority: int = PRIORITY_ORDER[Priority.BULK]

    @property
    def interactive(self) -> bool:
        """Whether a user waits for the item."""
        return self.priority == PRIORITY_ORDER[Priority.INTERACTIVE]


@dataclass(frozen=True, slots=True)
class CompletedItem:
    """An attempt that produced or found a result."""

    item: ClaimedItem
    result_id: UUID
    reused: bool


@dataclass(frozen=True, slots=True)
class FailedItem:
    """An attempt that ended in an error."""

    item: ClaimedItem
    code: str
    detail: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class ReclaimResult:
    """Numbers of items that `reclaim_expired` queued again and marked dead."""

    requeued: int
    dead: int


_CLAIM = leases.claim_statement(
    ITEMS,
    """
        next AS (
            SELECT id, isolated, priority, available_at FROM item
            WHERE state = 'queued' AND available_at <= now()
            ORDER BY priority, available_at, id LIMIT :limit
            FOR UPDATE SKIP LOCKED
        ), numbered AS (
            SELECT id, isolated, row_number() OVER (ORDER BY priority, available_at, id) AS position FROM next
        ), chosen AS (
            -- An isolated item runs without neighbours: the first in the queue is claimed alone, others wait for that.
            SELECT id FROM numbered
            WHERE CASE WHEN (SELECT isolated FROM numbered WHERE position = 1) THEN position = 1 AND NOT :occupied
                ELSE NOT isolated END
        )
    """,
    """item.id, item.attempt, item.job_id, item.uri, item.etag, item.isolated,
        coalesce(item.vocabulary_id, job.vocabulary_id), job.recipe_id,
        CASE job.kind WHEN 'label_studio' THEN job.source ->> 'instance' END, item.ls_task_id, item.priority""",
    tables={"job": "job.id = item.job_id"},
)

_COMPLETE = """
    state = 'done', result_id = owned.result_id, reused = owned.reused, finished_at = now(), lease_expires_at = NULL
"""

_RECLAIM = """
    lost_lease_count = lost_lease_count + 1, isolated = true,
    state = CASE WHEN lost_lease_count + 1 < :most THEN 'queued' ELSE 'dead' END,
    finished_at = CASE WHEN lost_lease_count + 1 < :most THEN NULL ELSE now() END,
    error_code = CASE WHEN lost_lease_count + 1 < :most THEN NULL ELSE 'lost_worker' END,
    error_detail = CASE WHEN lost_lease_count + 1 < :most THEN NULL
        ELSE 'the worker died or stopped responding all ' || (lost_lease_count + 1) || ' times this image was tried, '
             || 'the last times without any other image' END
"""


lock_owned = partial(leases.lock_owned, table=ITEMS)
extend = partial(leases.extend, table=ITEMS)
release = partial(leases.release, table=ITEMS)
waiting = partial(leases.has_available, table=ITEMS)


def claim(session: Session, worker: str, *, limit: int, lease: timedelta, occupied: bool = False) -> list[ClaimedItem]:
    """Claim up to `limit` queued items, interactive ones first. An item that a dead worker held is claimed alone: while
    it is next, a worker that holds others (`occupied`) gets nothing, so that it soon holds none.
    """
    rows = leases.claim(session, _CLAIM, worker, lease, limit=limit, occupied=occupied)
    return sorted((ClaimedItem(*row) for row in rows), key=lambda item: item.id)


def complete(session: Session, worker: str, completed: Sequence[CompletedItem]) -> set[int]:
    """Mark items done and return the ids that this worker still held; the others stay as they are. Items of Label
    Studio tasks go through `db.label_studio.outbox.complete_items`.
    """
    columns: leases.Columns = {
        ("result_id", "uuid"): [each.result_id for each in completed],
        ("reused", "bool"): [each.reused for each in completed],
    }
    return leases.change_owned(session, ITEMS, worker, [each.item for each in completed], _COMPLETE, columns)


def fail(session: Session, worker: str, failed: Sequence[FailedItem]) -> set[int]:
    """Mark items failed, or queue them again after a retryable error; return the ids that this worker still held."""
    failures = [(each.item, each.code, each.detail, each.retryable) for each in failed]
    return leases.fail(session, ITEMS, worker, failures)


def reclaim_expired(session: Session) -> ReclaimResult:
    """Take items from silent workers: queue them again in isolation, or mark them dead the third time."""
    states = [row.state for row in leases.reclaim(session, ITEMS, _RECLAIM, "state", most=MAX_LOST_LEASES)]
    return ReclaimResult(requeued=states.count("queued"), dead=states.count("dead"))
