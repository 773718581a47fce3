"""Syncs read all tasks of a project. A sync is requested, leased, and resumed where it stopped."""

from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from sqlalchemy import text
from sqlalchemy.orm import Session

from db import leases, models

MAX_SYNC_FAILURES = 8
"""Retryable errors in a row, without a page in between."""

SYNCS = leases.LeasedTable(
    name="project",
    due="sync_wanted_at IS NOT NULL",
    held="sync_wanted_at IS NOT NULL",
    lock="FOR NO KEY UPDATE",
    may_retry=f"failure_count + 1 < {MAX_SYNC_FAILURES}",
    on_failure="sync_error = left(owned.code || ': ' || owned.detail, 2000), "
    "sync_wanted_at = CASE WHEN {again} THEN sync_wanted_at END",
)


@dataclass(frozen=True, slots=True)
class SyncClaim:
    """A project whose sync belongs to this worker until its lease expires."""

    id: int
    attempt: int
    instance: str
    ls_project_id: int
    cursor: int | None
    """The last task that was handled; None at the beginning."""
    seen: int
    """Tasks that were handled."""


_FROM_THE_BEGINNING = f"sync_wanted_at = now(), sync_cursor = NULL, sync_seen = 0, sync_total = NULL, {leases.RESET}"

_REQUEST_ALL = text(f"""
    UPDATE project SET {_FROM_THE_BEGINNING}
    WHERE id IN (
        SELECT id FROM project
        WHERE instance = :instance AND sync_wanted_at IS NULL
            AND greatest(synced_at, available_at, created_at) < now() - CAST(:every AS interval)
        ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
    )
    RETURNING 1
""")  # noqa: S608 - made of its own constants

_CLAIM = leases.claim_statement(
    SYNCS,
    leases.choose(SYNCS, "sync_wanted_at, id", where="instance = :instance"),
    "project.id, project.attempt, project.instance, project.ls_project_id, project.sync_cursor, project.sync_seen",
)


waiting = partial(leases.has_available, table=SYNCS, where="instance = :instance")


def request(session: Session, project: models.Project) -> None:
    """Request a sync of all tasks. One that is running goes on; one that backs off after an error continues now."""
    session.execute(
        text(f"UPDATE project SET {_FROM_THE_BEGINNING}, sync_error = NULL WHERE id = :id AND sync_wanted_at IS NULL"),  # noqa: S608
        {"id": project.id},
    )
    session.execute(
        text("UPDATE project SET available_at = now() WHERE id = :id AND worker IS NULL AND available_at > now()"),
        {"id": project.id},
    )
    if project in session:
        session.refresh(project)


def request_all(session: Session, *, instance: str, interval: timedelta) -> int:
    """Request syncs of an instance's projects whose last one is at least this old; return their count."""
    return len(session.execute(_REQUEST_ALL, {"instance": instance, "every": interval}).all())


def claim(session: Session, worker: str, lease: timedelta, *, instance: str) -> SyncClaim | None:
    """Claim the project of this instance that has waited longest."""
    rows = leases.claim(session, _CLAIM, worker, lease, limit=1, instance=instance)
    return SyncClaim(*rows[0]) if rows else None


def advance(
    session: Session, worker: str, claimed: SyncClaim, *, cursor: int, seen: int, total: int | None, lease: timedelta
) -> bool:
    """Record `seen` more tasks up to task `cursor`, in the transaction that submits them. False: the sync is lost."""
    change = f"""
        sync_cursor = :cursor, sync_seen = sync_seen + :seen, sync_total = :total, failure_count = 0,
        sync_error = NULL, {leases.EXTEND}
    """
    values = {"cursor": cursor, "seen": seen, "total": total, "lease": lease.total_seconds()}
    return bool(leases.change_owned(session, SYNCS, worker, [claimed], change, values=values))


def finish(session: Session, worker: str, claimed: SyncClaim) -> bool:
    """Record that all tasks were submitted. False: this worker lost the sync."""
    change = f"synced_at = now(), sync_wanted_at = NULL, sync_cursor = NULL, sync_error = NULL, {leases.RESET}"
    return bool(leases.change_owned(session, SYNCS, worker, [claimed], change))


def release(session: Session, worker: str, claimed: SyncClaim) -> None:
    """Hand the sync back; another worker resumes it at the cursor."""
    leases.release(session, worker, [claimed], table=SYNCS)


def fail(session: Session, worker: str, claimed: SyncClaim, *, code: str, detail: str, retryable: bool) -> None:
    """Record an error of Label Studio. A retryable one is retried from the cursor; a sync that failed too often ends
    until it is requested again.
    """
    leases.fail(session, SYNCS, worker, [(claimed, code, detail, retryable)])
