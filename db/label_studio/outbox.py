"""The transactional outbox to Label Studio: each prediction is rendered, then reaches it once, by one of two ways.

(complete_items, submit) ──> pending ──claim──> pending, leased ──mark_sent──> sent       written back by a publisher
                        │ ^  ^              │  ├──fail──────────> failed
                        │ │  └──reschedule──┤  └──mark_orphaned─> orphaned           its task was deleted there
                        │ │  store_rendered─┘
                        │ └──requeue_deleted (asked for later than JUST_NOW)── sent  it was deleted there
                        └──take_for_response, an answer to /predict──> sent ─┐
                                                                        ^────┘ answered again

A sender that is frozen past its lease deletes its duplicate when it wakes (`resolve_late_send`), unless it is killed
just then; and a POST whose sender is dead may be stored long after another one was. Neither leaves a trace here but
one: somebody had taken the row to be sent when somebody else did so too. So such rows are checked for duplicates in
Label Studio again, after everyone's leases (`claim_checks`).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from db import leases, models
from db.label_studio import outbox_sql as sql
from db.label_studio.outbox_sql import DUPLICATE_CHECK_AFTER, OUTBOX, SUPERSEDED, version_of
from db.queue import items
from db.queue.items import CompletedItem

__all__ = ["DUPLICATE_CHECK_AFTER", "OUTBOX", "SUPERSEDED", "version_of"]

JUST_NOW = timedelta(seconds=120)
"""Longer than Label Studio's /predict lasts: it chose its tasks before, so it cannot know what was sent since."""
KEPT = timedelta(hours=1)
"""How long an answer can be given again as it is."""
_AT_ONCE = 50
"""Documents that are made Python's in one go, in which no other thread runs."""


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A prediction that is this worker's until its lease expires."""

    id: int
    attempt: int
    """From the second on, ask Label Studio first whether it has a prediction of this version for the task."""
    instance: str
    ls_project_id: int
    ls_task_id: int
    model_version: str
    result_id: UUID
    run_key: str
    masks_key: str
    document: str | None
    label_config: str
    extra_params: dict[str, Any]
    failure_count: int = 0
    replaces: int | None = None
    """Label Studio's id of a prediction of this version with another result: delete it first (404 is fine)."""


@dataclass(frozen=True, slots=True)
class DuplicateCheck:
    """A prediction that was sent, to be looked for in Label Studio."""

    id: int
    ls_project_id: int
    ls_task_id: int
    model_version: str
    ls_prediction_id: int | None
    """As it is known here; none where it was the answer to /predict."""


def enqueue(session: Session, item_ids: Collection[int]) -> None:
    """Add a pending prediction for every task of those of these items that are done. Called again, nothing more
    happens.
    """
    if item_ids:
        session.execute(sql.ENQUEUE, {"ids": sorted(item_ids)})


def complete_items(session: Session, worker: str, completed: Sequence[CompletedItem]) -> set[int]:
    """Mark items done, and enqueue predictions of their tasks; ids of those that were still this worker's."""
    done = items.complete(session, worker, completed)
    # A statement of its own: it sees the tasks of a submission that the one before may have had to wait for.
    enqueue(session, [one.item.id for one in completed if one.item.id in done and one.item.instance is not None])
    return done


# Publishers


def claim(session: Session, worker: str, *, limit: int, lease: timedelta, instance: str | None) -> list[OutboxRow]:
    """Claim up to `limit` predictions. Rows without a document come whosoever they are; those with one only where they
    are of `instance`, the one that may be written to (None: none is). What the project's present configuration does not
    ask for any more is dropped on the way.
    """
    while True:
        chosen = set(session.scalars(sql.CHOOSE, {"limit": limit, "instance": instance}))
        live = set(session.scalars(sql.LIVE, {"ids": sorted(chosen)})) if chosen else set()
        for drop in sql.DROP if chosen - live else ():
            session.execute(drop, {"ids": sorted(chosen - live)})
        if live or not chosen:
            break
    rows = leases.claim(session, sql.CLAIM, worker, lease, ids=sorted(live), instance=instance) if live else ()
    return sorted((OutboxRow(*row) for row in rows), key=lambda row: row.id)


def store_rendered(
    session: Session, worker: str, rendered: Sequence[tuple[OutboxRow, str, float]], *, keep: bool
) -> set[int]:
    """Store documents as JSON text, with their scores; ids of those that were still this worker's. `keep`: they go on
    to be sent; otherwise they are free for whoever comes first.
    """
    columns: leases.Columns = {
        ("new_document", "text"): [document for _, document, _ in rendered],
        ("new_score", "double precision"): [score for _, _, score in rendered],
    }
    rows = [row for row, _, _ in rendered]
    return leases.change_owned(session, OUTBOX, worker, rows, sql.STORE_RENDERED, columns, {"keep": keep})


def mark_sent(session: Session, worker: str, row: OutboxRow, ls_prediction_id: int) -> bool:
    """Label Studio has it, as `ls_prediction_id`. False where it is not this worker's any more: see
    `resolve_late_send`.
    """
    return bool(
        leases.change_owned(session, OUTBOX, worker, [row], sql.SENT, values={"ls_prediction_id": ls_prediction_id})
    )


def reschedule(
    session: Session, worker: str, row: OutboxRow, *, code: str, detail: str, at_least: timedelta = timedelta(0)
) -> bool:
    """Send it again later, after an error that may pass by itself."""
    return _fail(session, worker, row, code, detail, at_least=at_least, retryable=True)


def fail(session: Session, worker: str, row: OutboxRow, *, code: str, detail: str) -> bool:
    """It will never be accepted."""
    return _fail(session, worker, row, code, detail, at_least=timedelta(0), retryable=False)


def mark_orphaned(session: Session, worker: str, row: OutboxRow) -> bool:
    """Its task is not in Label Studio any more."""
    return bool(leases.change_owned(session, OUTBOX, worker, [row], sql.ORPHANED))


def release(session: Session, worker: str, rows: Collection[OutboxRow]) -> set[int]:
    """Hand rows back as if never claimed: of a worker that stops before it sent them."""
    return leases.release(session, OUTBOX, worker, rows)


def extend(session: Session, worker: str, rows: Collection[OutboxRow], lease: timedelta) -> set[int]:
    """The heartbeat: ids whose lease now runs from here. The others are not this worker's any more."""
    return leases.extend(session, OUTBOX, worker, rows, lease)


def waiting(session: Session, instance: str | None) -> bool:
    """Whether a publisher that may write to `instance` would find something to claim."""
    return leases.has_available(session, OUTBOX, where="document IS NULL") or leases.has_available(
        session, OUTBOX, where="instance = CAST(:instance AS text)", instance=instance
    )


def retry(session: Session, project: models.Project) -> int:
    """Send failed predictions of a project once more, rendered anew, and those that wait for a retry now; how many."""
    return len(session.execute(sql.RETRY, {"instance": project.instance, "project": project.ls_project_id}).all())


# Answers to /predict: the second way to Label Studio, which excludes the first


def take_for_response(
    session: Session, project: models.Project, tasks: Sequence[int], version: str | None, *, max_bytes: int
) -> dict[int, str]:
    """Take documents by task, of at most so many bytes together: they count as sent when the transaction ends. None
    that a publisher has, or sent just now; what was answered before is answered again. Without `version`, whatever the
    weights.
    """
    digests = f"{project.vocabulary_digest[:8]}.{project.region_digest[:8]}"
    given = _requested(project, tasks) | {"version": version, "digests": digests, "max_bytes": max_bytes}
    taken = session.execute(sql.TAKE_FOR_RESPONSE, given).tuples().partitions(_AT_ONCE)
    return {task: document for partition in taken for task, document in partition}


def requeue_deleted(session: Session, project: models.Project, tasks: Sequence[int], version: str) -> None:
    """Label Studio says that it has none of this version for these tasks: those that were not sent just now were
    deleted there, and go out again.
    """
    session.execute(sql.REQUEUE_DELETED, _requested(project, tasks) | {"version": version})


def forget_documents(session: Session) -> int:
    """Drop documents that were answered long ago; how many. Asked for once more, they are rendered anew."""
    return len(session.execute(sql.FORGET_DOCUMENTS, {"kept": KEPT}).all())


# Late sends and duplicates


def resolve_late_send(session: Session, row_id: int, ls_prediction_id: int) -> bool:
    """`ls_prediction_id` was stored in Label Studio for a row which is not the sender's any more, since its lease had
    expired. Whether it is one too many, for the sender to delete.

    Where the row is still to be sent, nothing may be deleted: whoever holds it may have found this very prediction and
    taken it for its own. So the row is taken from its holder, who then comes here as well; the next one asks Label
    Studio, and keeps the oldest of what all of them stored.
    """
    if session.execute(sql.REOPEN, {"id": row_id}).one_or_none() is not None:
        return False
    kept = session.scalar(text("SELECT ls_prediction_id FROM prediction WHERE id = :id"), {"id": row_id})
    return bool(kept != ls_prediction_id)


def claim_checks(session: Session, instance: str, *, limit: int) -> list[DuplicateCheck]:
    """Take up to `limit` duplicate checks that are due. A check counts before it is made: one that comes to nothing is
    made up for by the next, later.
    """
    given = {"instance": instance, "limit": limit, "waits": list(DUPLICATE_CHECK_AFTER[1:])}
    return [DuplicateCheck(*row) for row in session.execute(sql.CLAIM_CHECKS, given)]


def checks_waiting(session: Session, instance: str) -> bool:
    """Whether a duplicate check is due."""
    return bool(session.scalar(sql.CHECKS_WAITING, {"instance": instance}))


def keep_oldest(session: Session, check: DuplicateCheck, ls_prediction_id: int) -> None:
    """Of several, `ls_prediction_id` stays in Label Studio: it is the one that is known from now on."""
    if check.ls_prediction_id is not None:
        session.execute(
            text(
                "UPDATE prediction SET ls_prediction_id = :kept "
                "WHERE id = :id AND state = 'sent' AND ls_prediction_id = :known"
            ),
            {"id": check.id, "known": check.ls_prediction_id, "kept": ls_prediction_id},
        )


def _fail(
    session: Session, worker: str, row: OutboxRow, code: str, detail: str, *, at_least: timedelta, retryable: bool
) -> bool:
    ours = leases.fail(
        session, OUTBOX, worker, [row], codes=[code], details=[detail], retryable=[retryable], at_least=at_least
    )
    return bool(ours)


def _requested(project: models.Project, tasks: Sequence[int]) -> dict[str, object]:
    return {
        "instance": project.instance,
        "project": project.ls_project_id,
        "job": project.job_id,
        "tasks": list(tasks),
        "just_now": JUST_NOW,
    }
