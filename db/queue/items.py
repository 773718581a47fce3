"""Items from queued to an end: claims, leases, failures, lost workers. Every write of a worker is fenced (db.leases).

queued ──claim──> running ──complete──> done
  ^                 │ ├──fail────────> failed
  ├──fail (waits)───┤ └──(cancel)────> cancelled
  ├──release────────┤
  └──reclaim_expired┴──reclaim_expired, the third time──> dead
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy.orm import Session

from db import leases
from db.models import PRIORITY_ORDER, Priority

MAX_LOST_LEASES = 3
"""Workers that an item may take with it before it is dead."""
MAX_FAILURES = 6
"""Attempts at an item whose errors may pass by themselves. The waits between them add up to eight minutes or so."""

ITEMS = leases.LeasedTable(
    name="item",
    due="state = 'queued'",
    held="state = 'running'",
    on_claim="state = 'running', error_code = NULL, error_detail = NULL",
    on_release="state = 'queued'",
    may_retry=f"failure_count + 1 < {MAX_FAILURES}",
    on_failure="state = CASE WHEN {again} THEN 'queued' ELSE 'failed' END, "
    "finished_at = CASE WHEN {again} THEN NULL ELSE now() END, error_code = mine.code, error_detail = mine.detail",
)


@dataclass(frozen=True, slots=True)
class ClaimedItem:
    """An item that is this worker's until its lease expires."""

    id: int
    attempt: int
    job_id: UUID
    uri: str
    etag: str
    isolated: bool
    vocabulary_id: UUID
    """Its own, or its job's."""
    recipe_id: UUID
    instance: str | None = None
    """Of Label Studio, where the picture is a task's."""
    ls_task_id: int | None = None
    """In whose name it is fetched there."""
    priority: int = PRIORITY_ORDER[Priority.BULK]

    @property
    def interactive(self) -> bool:
        """Somebody waits for it."""
        return self.priority == PRIORITY_ORDER[Priority.INTERACTIVE]


@dataclass(frozen=True, slots=True)
class CompletedItem:
    """An attempt that came to a result."""

    item: ClaimedItem
    result_id: UUID
    reused: bool


@dataclass(frozen=True, slots=True)
class FailedItem:
    """An attempt that met an error."""

    item: ClaimedItem
    code: str
    detail: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class ReclaimResult:
    """Numbers of items that `reclaim_expired` queued again or gave up."""

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
            -- A suspect runs in isolation: as the first it goes without the others, further back it waits to be first.
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
    state = 'done', result_id = mine.result_id, reused = mine.reused, finished_at = now(), lease_expires_at = NULL
"""

_RECLAIM = """
    lost_lease_count = lost_lease_count + 1, isolated = true,
    state = CASE WHEN lost_lease_count + 1 < :most THEN 'queued' ELSE 'dead' END,
    finished_at = CASE WHEN lost_lease_count + 1 < :most THEN NULL ELSE now() END,
    error_code = CASE WHEN lost_lease_count + 1 < :most THEN NULL ELSE 'lost_worker' END,
    error_detail = CASE WHEN lost_lease_count + 1 < :most THEN NULL
        ELSE 'the worker died or fell silent each of the ' || (lost_lease_count + 1) || ' times this picture was '
             || 'tried, the last times with no other picture beside it' END
"""


def claim(session: Session, worker: str, *, limit: int, lease: timedelta, occupied: bool = False) -> list[ClaimedItem]:
    """Claim up to `limit` queued items, interactive ones first. An item that was held when a worker died comes in
    isolation; a worker that holds others (`occupied`) gets nothing while such a one is the next, so that it soon holds
    none.
    """
    rows = leases.claim(session, _CLAIM, worker, lease, limit=limit, occupied=occupied)
    return sorted((ClaimedItem(*row) for row in rows), key=lambda item: item.id)


def lock_owned(session: Session, worker: str, items: Collection[ClaimedItem]) -> set[int]:
    """Ids of those that are still this worker's attempt, locked until the transaction ends."""
    return leases.lock_owned(session, ITEMS, worker, items)


def complete(session: Session, worker: str, completed: Sequence[CompletedItem]) -> set[int]:
    """Mark items done; ids of those that were still this worker's. The others' results are not linked by it. Items of
    Label Studio's tasks go through `db.label_studio.outbox.complete_items`.
    """
    columns: leases.Columns = {
        ("result_id", "uuid"): [one.result_id for one in completed],
        ("reused", "bool"): [one.reused for one in completed],
    }
    items = [one.item for one in completed]
    return leases.change_owned(session, ITEMS, worker, items, _COMPLETE, columns)


def fail(session: Session, worker: str, failed: Sequence[FailedItem]) -> set[int]:
    """Mark items failed, or queue them again after a wait where the error may pass by itself; ids of those that were
    still ours.
    """
    return leases.fail(
        session,
        ITEMS,
        worker,
        [one.item for one in failed],
        codes=[one.code for one in failed],
        details=[one.detail for one in failed],
        retryable=[one.retryable for one in failed],
    )


def release(
    session: Session, worker: str, items: Collection[ClaimedItem], *, wait: timedelta = timedelta(0)
) -> set[int]:
    """Queue items again as if never claimed: of a worker that shuts down, or whose picture another one computes now."""
    return leases.release(session, ITEMS, worker, items, wait=wait)


def extend(session: Session, worker: str, items: Collection[ClaimedItem], lease: timedelta) -> set[int]:
    """The heartbeat: ids whose lease now runs from here. The others were reclaimed or cancelled: drop them."""
    return leases.extend(session, ITEMS, worker, items, lease)


def reclaim_expired(session: Session) -> ReclaimResult:
    """Take items from silent workers: queued again, in isolation, or dead where it was the third time."""
    states = [row.state for row in leases.reclaim(session, ITEMS, _RECLAIM, "state", most=MAX_LOST_LEASES)]
    return ReclaimResult(requeued=states.count("queued"), dead=states.count("dead"))


def waiting(session: Session) -> bool:
    """Whether a worker would find something to claim."""
    return leases.has_available(session, ITEMS)
