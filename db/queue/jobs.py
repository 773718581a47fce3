"""Jobs: made once per Idempotency-Key, counted from their items, cancelled, retried, closed."""

from dataclasses import dataclass
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
    """What a request asks for."""

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
    """An item as its job's owner sees it."""

    id: int
    uri: str
    state: ItemState
    attempt: int
    error_code: str | None
    error_detail: str | None
    result_id: UUID | None
    reused: bool
    finished_at: datetime | None


def create(session: Session, new: NewJob) -> tuple[Job, bool]:
    """The job, and whether it is new: the same Idempotency-Key with the same request is the job it made before.

    Raises:
        ConflictError: the key was used with another request.

    """
    values = {
        "id": uuid7(),
        "kind": str(new.kind),
        "priority": str(new.priority),
        "source": new.source,
        "vocabulary_id": new.vocabulary_id,
        "recipe_id": new.recipe_id,
        "name": new.name,
        "api_key_id": new.api_key_id,
        "idempotency_key": new.idempotency_key,
        "request_digest": new.request_digest,
        # Its tasks come one request at a time: there is no source that a worker could list.
        "listed_at": func.now() if new.kind is JobKind.LABEL_STUDIO else None,
    }
    statement = insert(Job).values(values).on_conflict_do_nothing(index_elements=["api_key_id", "idempotency_key"])
    made = session.scalars(statement.returning(Job)).one_or_none()
    if made is not None:
        return made, True
    before = find_by_idempotency_key(session, new.api_key_id, new.idempotency_key, new.request_digest)
    if before is None:
        raise ConflictError("another request made and deleted this job in the same moment; send it again")
    return before, False


def find_by_idempotency_key(
    session: Session, api_key_id: UUID | None, idempotency_key: str | None, request_digest: str | None
) -> Job | None:
    """The job that an equal request with this Idempotency-Key made: to be found before anything else is looked at, for
    the source may have changed since.

    Raises:
        ConflictError: the key was used with another request.

    """
    before = session.scalars(
        select(Job).where(Job.api_key_id == api_key_id, Job.idempotency_key == idempotency_key)
    ).one_or_none()
    if before is not None and before.request_digest != request_digest:
        raise ConflictError(
            f"Idempotency-Key {idempotency_key!r} was used with another request, for job {before.id}; use a new key"
        )
    return before


def get(session: Session, job_id: UUID) -> Job:
    """Raises: NotFoundError."""
    job = session.get(Job, job_id)
    if job is None:
        raise NotFoundError(f"there is no job {job_id}")
    return job


def page(session: Session, *, cursor: str | None, limit: int) -> tuple[list[Progress], str | None]:
    """Jobs, newest first, with the cursor of the next page."""
    at = Cursor("jobs")
    query = select(Job).order_by(Job.id.desc()).limit(limit + 1)
    if cursor:
        query = query.where(Job.id < at.read_id(cursor))
    jobs = session.scalars(query).all()
    shown = [progress_of(session, job) for job in jobs[:limit]]
    return shown, at.write(str(jobs[limit - 1].id)) if len(jobs) > limit else None


def items(
    session: Session, job_id: UUID, *, state: ItemState | None, cursor: str | None, limit: int
) -> tuple[list[ItemView], str | None]:
    """A job's items in the order of listing, with the cursor of the next page."""
    at = Cursor(f"items {job_id} {state}")
    query = select(Item).where(Item.job_id == job_id).order_by(Item.id).limit(limit + 1)
    if state is not None:
        query = query.where(Item.state == str(state))
    if cursor:
        query = query.where(Item.id > at.read_number(cursor))
    rows = session.scalars(query).all()
    shown = [
        ItemView(
            row.id,
            row.uri,
            ItemState(row.state),
            row.attempt,
            row.error_code,
            row.error_detail,
            row.result_id,
            row.reused,
            row.finished_at,
        )
        for row in rows[:limit]
    ]
    return shown, at.write(shown[-1].id) if len(rows) > limit else None


def cancel(session: Session, job_id: UUID) -> Job:
    """Nothing more of it is listed or claimed; what a worker computes right now is dropped when it comes in.

    Raises:
        NotFoundError: no such job.
        ConflictError: it has ended already.

    """
    job = _locked(session, job_id)
    if job.cancelled_at is None:
        # Where the source could not be listed to its end, what was listed before may still be open.
        if (job.finished_at is not None or job.error_code is not None) and not _open(session, job_id):
            raise ConflictError(f"job {job_id} has ended; there is nothing to cancel")
        job.cancelled_at = job.finished_at = session.scalar(select(func.now()))
        session.flush()
    session.execute(
        text(
            "WITH open AS (SELECT id FROM item WHERE job_id = :job AND state IN ('queued', 'running') "
            "ORDER BY id FOR UPDATE) "
            "UPDATE item SET state = 'cancelled', finished_at = now(), lease_expires_at = NULL, worker = NULL "
            "FROM open WHERE item.id = open.id"
        ),
        {"job": job_id},
    )
    snapshot_counts(session, [job_id])
    return job


def retry(session: Session, job_id: UUID) -> int:
    """Failed, dead and cancelled items once more, from the beginning; how many. A source that could not be listed is
    listed again.

    Raises:
        NotFoundError: no such job.

    """
    job = _locked(session, job_id)
    again = session.execute(
        text(
            "WITH ended AS (SELECT id FROM item WHERE job_id = :job AND state IN ('failed', 'dead', 'cancelled') "  # noqa: S608
            # A line or a task that named no picture will not come to name one.
            "AND coalesce(error_code, '') <> 'source_invalid' AND NOT (state = 'failed' AND attempt = 0) "
            "ORDER BY id FOR UPDATE) "
            f"UPDATE item SET state = 'queued', lost_lease_count = 0, isolated = (state = 'dead'), {leases.RESET}, "
            "error_code = NULL, error_detail = NULL, finished_at = NULL "
            "FROM ended WHERE item.id = ended.id RETURNING 1"
        ),
        {"job": job_id},
    ).all()
    if again or job.error_code is not None or job.cancelled_at is not None:
        job.cancelled_at = job.finished_at = job.error_code = job.error_detail = job.item_counts = None
        job.failure_count = 0
        if job.listed_at is None:  # from the cursor on, by whoever comes first
            _make_available(job)
    return len(again)


def rescan(session: Session, job_id: UUID) -> Job:
    """List the source again from its beginning; only what is new or has changed becomes an item.

    Raises:
        NotFoundError: no such job.
        ConflictError: it was cancelled, or is of a Label Studio project.

    """
    job = _locked(session, job_id)
    if job.kind == JobKind.LABEL_STUDIO:
        raise ConflictError(f"job {job_id} is of a Label Studio project: look for its tasks by `car label-studio sync`")
    if job.cancelled_at is not None:
        raise ConflictError(f"job {job_id} was cancelled; make a new one, known pictures cost nothing")
    # Without its worker: one that is on its way now must not put its cursor over the beginning.
    job.cursor = job.listed_at = job.finished_at = job.item_counts = job.error_code = job.error_detail = None
    job.failure_count = 0
    _make_available(job)
    return job


def close(session: Session) -> int:
    """Mark jobs that are listed, or cannot be, and have no open items as finished; how many. Asked on every beat:
    whoever ends a job's last items cannot know it, as another worker may end its own last ones in the same moment.
    """
    ended = (
        "finished_at IS NULL AND (listed_at IS NOT NULL OR error_code IS NOT NULL) AND NOT EXISTS "
        "(SELECT 1 FROM item WHERE item.job_id = job.id AND item.state IN ('queued', 'running'))"
    )
    # Looked at once more when locked: a retry or a new listing may have come in between.
    locked = session.scalars(text(f"SELECT id FROM job WHERE {ended} ORDER BY id FOR UPDATE SKIP LOCKED")).all()  # noqa: S608
    if not locked:
        return 0
    closed = session.execute(
        # Not now(), the transaction's beginning, which may lie before the end of the last items.
        text(f"UPDATE job SET finished_at = clock_timestamp() WHERE id = ANY(:ids) AND {ended} RETURNING id"),  # noqa: S608
        {"ids": list(locked)},
    )
    ended_now = [row.id for row in closed]
    if ended_now:
        snapshot_counts(session, ended_now)
    return len(ended_now)


def _make_available(job: Job) -> None:
    job.worker = job.lease_expires_at = None
    job.available_at = func.now()


def _open(session: Session, job_id: UUID) -> bool:
    states = [str(ItemState.QUEUED), str(ItemState.RUNNING)]
    query = select(Item.id).where(Item.job_id == job_id, Item.state.in_(states)).limit(1)
    return session.scalar(query) is not None


def _locked(session: Session, job_id: UUID) -> Job:
    job = session.scalars(select(Job).where(Job.id == job_id).with_for_update()).one_or_none()
    if job is None:
        raise NotFoundError(f"there is no job {job_id}")
    return job
