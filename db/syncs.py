"""Looks at all tasks of a project: wanted, leased, resumed where they stopped."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from db import models
from db.items import FIRST_WAIT, LONGEST_WAIT, storable

MAX_SYNC_FAILURES = 8


@dataclass(frozen=True, slots=True)
class SyncClaim:
    """A project whose tasks are this worker's to look at until its lease ends."""

    id: int
    """Of the project's row."""
    instance: str
    number: int
    wanted_at: datetime
    cursor: int | None
    """The last task that was looked at; none at the beginning."""
    seen: int
    failures: int


_FROM_THE_BEGINNING = "sync_cursor = NULL, sync_seen = 0, sync_total = NULL, sync_failures = 0, sync_worker = NULL"
_DUE = "sync_wanted_at IS NOT NULL AND (sync_until IS NULL OR sync_until < now()) AND instance = :instance"
_MINE = "id = :id AND sync_worker = :worker AND sync_wanted_at = :wanted_at"

_WANT_ALL = text(f"""
    UPDATE project SET sync_wanted_at = now(), sync_until = NULL, {_FROM_THE_BEGINNING}
    WHERE id IN (
        SELECT id FROM project
        WHERE instance = :instance AND sync_wanted_at IS NULL
            AND greatest(synced_at, sync_until, created_at) < now() - CAST(:every AS interval)
        ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
    )
    RETURNING 1
""")  # noqa: S608 - made of its own constants

_CLAIM = text(f"""
    UPDATE project SET sync_worker = :worker, sync_until = now() + make_interval(secs => :lease)
    WHERE id = (
        SELECT id FROM project WHERE {_DUE} ORDER BY sync_wanted_at, id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
    )
    RETURNING id, instance, number, sync_wanted_at, sync_cursor, sync_seen, sync_failures
""")  # noqa: S608

_ADVANCE = text(f"""
    UPDATE project
    SET sync_cursor = :cursor, sync_seen = sync_seen + :seen, sync_total = :total, sync_failures = 0,
        sync_error = NULL, sync_until = now() + make_interval(secs => :lease)
    WHERE {_MINE} RETURNING id
""")  # noqa: S608

_FINISH = text(f"""
    UPDATE project
    SET synced_at = now(), sync_wanted_at = NULL, sync_until = NULL, sync_worker = NULL, sync_cursor = NULL,
        sync_failures = 0, sync_error = NULL
    WHERE {_MINE} RETURNING id
""")  # noqa: S608

_FAIL = text(f"""
    UPDATE project
    SET sync_worker = NULL, sync_error = :error, sync_failures = sync_failures + 1,
        sync_wanted_at = CASE WHEN :retryable AND sync_failures + 1 < :most THEN sync_wanted_at END,
        sync_until = now() + least(CAST(:longest AS interval), :first * power(2, sync_failures))
    WHERE {_MINE}
""")  # noqa: S608


def want_sync(session: Session, project: models.Project) -> None:
    """All its tasks are to be looked at, now. A look that is under way goes on; one that waits after an error waits no
    longer.
    """
    session.execute(
        text(f"""
            UPDATE project SET sync_wanted_at = now(), sync_until = NULL, sync_error = NULL, {_FROM_THE_BEGINNING}
            WHERE id = :id AND sync_wanted_at IS NULL
        """),  # noqa: S608
        {"id": project.id},
    )
    session.execute(
        text("UPDATE project SET sync_until = NULL WHERE id = :id AND sync_worker IS NULL AND sync_until IS NOT NULL"),
        {"id": project.id},
    )
    if project in session:
        session.refresh(project)


def want_all(session: Session, *, instance: str, every: timedelta) -> int:
    """The same for the projects of an instance whose last look is so long ago; how many. May be called at any rate."""
    return len(session.execute(_WANT_ALL, {"instance": instance, "every": every}).all())


def claim_sync(session: Session, worker: str, lease: timedelta, *, instance: str) -> SyncClaim | None:
    """The project of this instance that has waited longest."""
    given = {"worker": worker, "lease": lease.total_seconds(), "instance": instance}
    row = session.execute(_CLAIM, given).one_or_none()
    return SyncClaim(*row) if row is not None else None


def advance(
    session: Session, worker: str, claim: SyncClaim, *, cursor: int, seen: int, total: int | None, lease: timedelta
) -> bool:
    """A page of `seen` more tasks was asked for, up to task `cursor`; call it in the transaction of `tasks.ask`. False
    where the look is not this worker's any more.
    """
    page = {"cursor": cursor, "seen": seen, "total": total, "lease": lease.total_seconds()}
    return session.execute(_ADVANCE, page | _mine(worker, claim)).one_or_none() is not None


def finish_sync(session: Session, worker: str, claim: SyncClaim) -> bool:
    """All tasks were looked at."""
    return session.execute(_FINISH, _mine(worker, claim)).one_or_none() is not None


def fail_sync(session: Session, worker: str, claim: SyncClaim, *, code: str, detail: str, retryable: bool) -> None:
    """Label Studio did not answer, or refused. What may pass by itself is tried again after a wait, from the cursor on;
    a look that failed too often ends until it is wanted anew.
    """
    error = {"error": storable(f"{code}: {detail}"), "retryable": retryable, "most": MAX_SYNC_FAILURES}
    session.execute(_FAIL, error | {"first": FIRST_WAIT, "longest": LONGEST_WAIT} | _mine(worker, claim))


def sync_waiting(session: Session, *, instance: str) -> bool:
    """Whether a worker would find a project to look at."""
    return bool(session.scalar(text(f"SELECT EXISTS (SELECT 1 FROM project WHERE {_DUE})"), {"instance": instance}))  # noqa: S608


def _mine(worker: str, claim: SyncClaim) -> dict[str, object]:
    return {"worker": worker, "id": claim.id, "wanted_at": claim.wanted_at}
