"""Jobs: created once per Idempotency-Key, cancelled, retried, rescanned and closed."""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from db import leases
from db.errors import ConflictError, NotFoundError
from db.models import Item, ItemState, Job, JobKind, Priority
from db.pagination import Cursor
from db.queue.progress import Progress, progress_of, snapshot_counts


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """The columns of a job that its request gives."""

    kind: JobKind
    priority: Priority
    source: dict[str, Any]
    vocabulary_id: UUID
    recipe_id: UUID
    name: str | None = None
    api_key_id: UUID | None = None
    idempotency_key: str | None = None
    request_digest: str | None = None


@dataclass(frozen=True)
class ItemView:
    """An item as the API shows it."""

    id: int
    uri: str
    state: ItemState
    attempt: int
    error_code: str | None
    error_detail: str | None
    result_id: UUID | None
    reused: bool
    finished_at: datetime | None


_CANCEL_OPEN = text(f"""
    WITH open AS (SELECT id FROM item WHERE job_id = :job AND state IN ('queued', 'running') ORDER BY id FOR UPDATE)
    UPDATE item SET state = 'cancelled', finished_at = now(), {leases.LET_GO} FROM open WHERE item.id = open.id
    RETURNING 1
""")  # noqa: S608 - made of its own constants

# A line or a task that names no image will not name one later.
_REQUEUE_ENDED = text(f"""
    WITH ended AS (
        SELECT item.id FROM item LEFT JOIN result ON result.id = item.result_id
        WHERE item.job_id = :job AND (state IN ('failed', 'dead', 'cancelled')
            AND coalesce(error_code, '') <> 'source_invalid' AND NOT (state = 'failed' AND attempt = 0)
            OR state = 'done' AND result.objects_lost_at IS NOT NULL)
        ORDER BY item.id FOR UPDATE OF item
    )
    UPDATE item SET state = 'queued', lost_lease_count = 0, isolated = (state = 'dead'), {leases.RESET},
        error_code = NULL, error_detail = NULL, finished_at = NULL, result_id = NULL
    FROM ended WHERE item.id = ended.id RETURNING 1
""")  # noqa: S608

_ENDED = """
    finished_at IS NULL AND (listed_at IS NOT NULL OR error_code IS NOT NULL)
    AND NOT EXISTS (SELECT 1 FROM item WHERE item.job_id = job.id AND item.state IN ('queued', 'running'))
"""


def create(session: Session, new: NewJob) -> tuple[Job, bool]:
    """Return the job and whether it is new: a request that repeats an Idempotency-Key gets the existing job. Raises
    ConflictError if the key was used with another request.
    """
    values = vars(new) | {"id": uuid7(), "kind": str(new.kind), "priority": str(new.priority)}
    if new.kind is JobKind.LABEL_STUDIO:
        values["listed_at"] = func.now()  # its tasks come with requests, so there is no source to list
    statement = insert(Job).values(values).on_conflict_do_nothing(index_elements=["api_key_id", "idempotency_key"])
    created = session.scalars(statement.returning(Job)).one_or_none()
    if created is not None:
        return created, True
    job = find_by_idempotency_key(session, new.api_key_id, new.idempotency_key, new.request_digest)
    if job is None:
        raise ConflictError("another request created and deleted this job at the same moment; send it again")
    return job, False


def find_by_idempotency_key(
    session: Session, api_key_id: UUID | None, idempotency_key: str | None, request_digest: str | None
) -> Job | None:
    """Return the job that an equal request with this Idempotency-Key created. Call it before reading the source, which
    may have changed since. Raises ConflictError if the key was used with another request.
    """
    same_key = select(Job).where(Job.api_key_id == api_key_id, Job.idempotency_key == idempotency_key)
    job = session.scalars(same_key).one_or_none()
    if job is not None and job.request_digest != request_digest:
        raise ConflictError(
            f"Idempotency-Key {idempotency_key!r} was used with another request, for job {job.id}; use a new key"
        )
    return job


def get(session: Session, job_id: UUID, *, lock: bool = False) -> Job:
    """Raises: NotFoundError."""
    job = session.get(Job, job_id, with_for_update=lock or None)
    if job is None:
        raise NotFoundError(f"there is no job {job_id}")
    return job


def page(session: Session, *, cursor: str | None, limit: int) -> tuple[list[Progress], str | None]:
    """Return jobs, the newest first, and the cursor of the next page."""
    at = Cursor("jobs")
    query = select(Job).order_by(Job.id.desc()).limit(limit + 1)
    if cursor:
        query = query.where(Job.id < at.read_id(cursor))
    jobs = session.scalars(query).all()
    entries = [progress_of(session, job) for job in jobs[:limit]]
    return entries, at.write(str(jobs[limit - 1].id)) if len(jobs) > limit else None


def items(
    session: Session, job_id: UUID, *, state: ItemState | None, cursor: str | None, limit: int
) -> tuple[list[ItemView], str | None]:
    """Return a job's items in the order of listing, and the cursor of the next page."""
    at = Cursor(f"items {job_id} {state}")
    query = select(Item).where(Item.job_id == job_id).order_by(Item.id).limit(limit + 1)
    if state is not None:
        query = query.where(Item.state == str(state))
    if cursor:
        query = query.where(Item.id > at.read_number(cursor))
    rows = session.scalars(query).all()
    names = [field.name for field in fields(ItemView)]
    views = [
        ItemView(**{name: getattr(row, name) for name in names} | {"state": ItemState(row.state)})
        for row in rows[:limit]
    ]
    return views, at.write(views[-1].id) if len(rows) > limit else None


def cancel(session: Session, job_id: UUID) -> Job:
    """Stop listing and claiming; results that workers compute at this moment are dropped. Raises NotFoundError, or
    ConflictError if the job has ended.
    """
    job = get(session, job_id, lock=True)
    open_items = session.execute(_CANCEL_OPEN, {"job": job_id}).all()
    if job.cancelled_at is None:
        # The scheduler sets finished_at a moment after the last item has ended, so the items decide. If the source
        # could not be listed to its end, items of its first pages may still be open.
        is_listed = job.listed_at is not None or job.finished_at is not None or job.error_code is not None
        if is_listed and not open_items:
            raise ConflictError(f"job {job_id} has ended; there is nothing to cancel")
        job.cancelled_at = job.finished_at = session.scalar(select(func.now()))
        session.flush()
    snapshot_counts(session, [job_id])
    return job


def retry(session: Session, job_id: UUID) -> int:
    """Queue failed, dead and cancelled items again, and done ones whose objects are known to be gone; resume a listing
    that failed. Returns the count of items. Raises NotFoundError.
    """
    job = get(session, job_id, lock=True)
    requeued = session.execute(_REQUEUE_ENDED, {"job": job_id}).all()
    if requeued or job.error_code is not None or job.cancelled_at is not None:
        job.cancelled_at = None
        _reopen(job, list_source=job.listed_at is None)  # from the cursor on
    return len(requeued)


def rescan(session: Session, job_id: UUID) -> Job:
    """List the source again from its beginning; only new or changed images become items. Raises NotFoundError, or
    ConflictError if the job was cancelled or belongs to a Label Studio project.
    """
    job = get(session, job_id, lock=True)
    if job.kind == JobKind.LABEL_STUDIO:
        raise ConflictError(f"job {job_id} belongs to a Label Studio project; run `car label-studio sync` instead")
    if job.cancelled_at is not None:
        raise ConflictError(f"job {job_id} was cancelled; create a new one, which reuses all results")
    job.cursor = job.listed_at = None
    _reopen(job, list_source=True)
    return job


def close(session: Session) -> int:
    """Mark jobs finished that have no open items and are listed, or cannot be; return their count. The scheduler calls
    it, because two workers that complete a job's last items at once do not see each other's.
    """
    # The condition is checked again under the lock: a retry or a rescan may have come in between.
    ids = list(session.scalars(text(f"SELECT id FROM job WHERE {_ENDED} ORDER BY id FOR UPDATE SKIP LOCKED")))  # noqa: S608
    if ids:
        # Not now(), the transaction's beginning, which may be before the end of the last items.
        close_ended = f"UPDATE job SET finished_at = clock_timestamp() WHERE id = ANY(:ids) AND {_ENDED} RETURNING id"  # noqa: S608
        ids = list(session.scalars(text(close_ended), {"ids": ids}))
        snapshot_counts(session, ids)
    return len(ids)


def _reopen(job: Job, *, list_source: bool) -> None:
    job.finished_at = job.item_counts = job.error_code = job.error_detail = None
    job.failure_count = 0
    if list_source:  # without its worker: a page that is on its way must not move the cursor
        job.worker = job.lease_expires_at = None
        job.available_at = func.now()
