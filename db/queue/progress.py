"""Progress of a job: its items by state, its rate, and the time it may still take."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from db.models import Item, ItemState, Job

_RATE_WINDOW = timedelta(seconds=60)

_SNAPSHOT = text("""
    UPDATE job SET item_counts = counted.item_counts FROM (
        SELECT id, (
            SELECT coalesce(jsonb_object_agg(state, n), '{}') || jsonb_build_object('reused', coalesce(sum(reused), 0))
            FROM (
                SELECT state, count(*) AS n, count(*) FILTER (WHERE reused) AS reused
                FROM item WHERE item.job_id = ended.id GROUP BY state
            ) AS by_state
        ) AS item_counts
        FROM unnest(CAST(:ids AS uuid[])) AS ended(id)
    ) AS counted
    WHERE job.id = counted.id
""")


class JobStatus(StrEnum):
    LISTING = "listing"
    """The source is still being listed; items run meanwhile."""
    RUNNING = "running"
    DONE = "done"
    """No item is open; its counts show whether any failed."""
    CANCELLED = "cancelled"
    FAILED = "failed"
    """Its source cannot be listed: `error`."""


@dataclass(frozen=True)
class Progress:
    """A job and the counts of its items."""

    job: Job
    status: JobStatus
    counts: dict[ItemState, int]
    reused: int
    """Done items whose result already existed."""
    rate: float
    """Items that end per second, over the last minute or the job's life."""
    eta_seconds: float | None
    """At that rate; None if it is unknown."""

    @property
    def progress(self) -> float:
        """Share of known items that have ended, 0..1."""
        total = sum(self.counts.values())
        ended = total - self.counts[ItemState.QUEUED] - self.counts[ItemState.RUNNING]
        return ended / total if total else float(self.status not in (JobStatus.LISTING, JobStatus.RUNNING))


def progress_of(session: Session, job: Job) -> Progress:
    """Count the items of a running job now; an ended one has its counts stored."""
    counts, reused = _counts(session, job)
    rate = _rate(session, job)
    open_count = counts[ItemState.QUEUED] + counts[ItemState.RUNNING]
    status = _status(job, has_open_items=open_count > 0)
    eta_seconds = open_count / rate if status is JobStatus.RUNNING and rate > 0 else None
    return Progress(job, status, counts, reused, rate, eta_seconds)


def snapshot_counts(session: Session, ended: Sequence[UUID]) -> None:
    """Store the counts of ended jobs: to count half a million items takes half a second."""
    session.execute(_SNAPSHOT, {"ids": list(ended)})


def _counts(session: Session, job: Job) -> tuple[dict[ItemState, int], int]:
    zeros = dict.fromkeys(ItemState, 0)
    if job.item_counts is not None:
        counts = dict(job.item_counts)
        reused = int(counts.pop("reused"))
        return zeros | {ItemState(state): int(count) for state, count in counts.items()}, reused
    rows = session.execute(
        select(Item.state, func.count(), func.count().filter(Item.reused))
        .where(Item.job_id == job.id)
        .group_by(Item.state)
    ).all()
    return zeros | {ItemState(state): count for state, count, _ in rows}, sum(row[2] for row in rows)


def _status(job: Job, *, has_open_items: bool) -> JobStatus:
    if job.cancelled_at is not None:
        return JobStatus.CANCELLED
    if job.error_code is not None:
        return JobStatus.FAILED
    if job.listed_at is None:
        return JobStatus.LISTING
    return JobStatus.RUNNING if has_open_items else JobStatus.DONE


def _rate(session: Session, job: Job) -> float:
    """Return the rate over the last minute before now, or before the job's end."""
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
