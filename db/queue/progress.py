"""How far a job is: its items by state, its rate, and what it may still take."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from db.models import Item, ItemState, Job

_RATE_WINDOW = timedelta(seconds=60)
_REUSED = "reused"

_SNAPSHOT = text("""
    UPDATE job SET item_counts = counted.item_counts FROM (
        SELECT id, (
            SELECT coalesce(jsonb_object_agg(state, n), '{}') || jsonb_build_object('reused', coalesce(sum(reused), 0))
            FROM (
                SELECT state, count(*) AS n, count(*) FILTER (WHERE reused) AS reused
                FROM item WHERE item.job_id = wanted.id GROUP BY state
            ) AS by_state
        ) AS item_counts
        FROM unnest(CAST(:ids AS uuid[])) AS wanted(id)
    ) AS counted
    WHERE job.id = counted.id
""")


class JobStatus(StrEnum):
    LISTING = "listing"
    """Its source is still being listed; items are worked on meanwhile."""
    RUNNING = "running"
    DONE = "done"
    """Nothing is left to be done; its counts say whether any item failed."""
    CANCELLED = "cancelled"
    FAILED = "failed"
    """Its source cannot be listed: `error`."""


@dataclass(frozen=True)
class Progress:
    """A job and what became of its items so far."""

    job: Job
    status: JobStatus
    counts: dict[ItemState, int]
    reused: int
    """Done items whose result was there already."""
    rate: float
    """Items that ended in a second, over the last minute or the job's life."""
    eta_seconds: float | None
    """At that rate; none where it is not known."""

    @property
    def progress(self) -> float:
        """Share of known items that came to an end, 0..1."""
        total = sum(self.counts.values())
        ended = total - self.counts[ItemState.QUEUED] - self.counts[ItemState.RUNNING]
        return ended / total if total else float(self.status not in (JobStatus.LISTING, JobStatus.RUNNING))


def progress_of(session: Session, job: Job) -> Progress:
    """Counted now, while the job goes on; as it was counted when it ended, after that."""
    counts, reused = _counts(session, job)
    rate = _rate(session, job)
    left = counts[ItemState.QUEUED] + counts[ItemState.RUNNING]
    status = _status(job, left=left > 0)
    known = status is JobStatus.RUNNING and rate > 0
    return Progress(job, status, counts, reused, rate, left / rate if known else None)


def snapshot_counts(session: Session, ended: Sequence[UUID]) -> None:
    """Store the counts of jobs whose items change no more: to count half a million takes half a second."""
    session.execute(_SNAPSHOT, {"ids": list(ended)})


def _counts(session: Session, job: Job) -> tuple[dict[ItemState, int], int]:
    none = dict.fromkeys(ItemState, 0)
    if job.item_counts is not None:
        counted = dict(job.item_counts)
        reused = int(counted.pop(_REUSED))
        return none | {ItemState(state): int(n) for state, n in counted.items()}, reused
    rows = session.execute(
        select(Item.state, func.count(), func.count().filter(Item.reused))
        .where(Item.job_id == job.id)
        .group_by(Item.state)
    ).all()
    return none | {ItemState(state): n for state, n, _ in rows}, sum(row[2] for row in rows)


def _status(job: Job, *, left: bool) -> JobStatus:
    if job.cancelled_at is not None:
        return JobStatus.CANCELLED
    if job.error_code is not None:
        return JobStatus.FAILED
    if job.listed_at is None:
        return JobStatus.LISTING
    return JobStatus.RUNNING if left else JobStatus.DONE


def _rate(session: Session, job: Job) -> float:
    """Over the last minute before now, or before the job's end."""
    last = func.coalesce(job.finished_at, func.now())
    seconds, ended = session.execute(
        select(
            func.extract("epoch", last - func.greatest(job.created_at, last - _RATE_WINDOW)),
            select(func.count())
            .where(Item.job_id == job.id, Item.finished_at > last - _RATE_WINDOW, Item.finished_at <= last)
            .scalar_subquery(),
        )
    ).one()
    return float(ended) / max(float(seconds), 1e-3) if ended else 0.0
