"""The transactional outbox to Label Studio: each prediction is rendered, then reaches it once, by one of two ways.

(complete_items, submit) ──> pending ──claim──> pending, leased ──mark_sent──> sent      written back by a publisher
                        │ ^  ^              │  ├──fail──────────> failed
                        │ │  └──reschedule──┤  └──mark_orphaned─> orphaned          the task was deleted there
                        │ │  store_rendered─┘
                        │ └──requeue_deleted (requested after JUST_NOW)── sent      the prediction was deleted there
                        └──take_for_response, a response to /predict──> sent ─┐
                                                                         ^────┘ requested again

A sender that is suspended past its lease deletes its duplicate when it resumes (`resolve_late_send`), unless it is
killed just then; and Label Studio may store the POST of a dead sender long after another one. Both leave one trace
here: a row was claimed for sending while an earlier claim had been sending it. Label Studio is asked again whether it
has duplicates of such rows, after all leases have expired (`claim_checks`).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from db import leases, models
from db.queue import items
from db.queue.items import CompletedItem

SUPERSEDED: Final = "superseded"
"""Error code of predictions that were dropped when vocabulary or regions changed; enqueued again when these return."""
DUPLICATE_CHECK_AFTER: Final = (timedelta(minutes=10), timedelta(hours=1), timedelta(days=1))
"""Time from a row's second claim to its first duplicate check, and from each check to the next."""
JUST_NOW = timedelta(seconds=120)
"""Longer than a /predict request lasts: Label Studio chose its tasks before, so it cannot know what was sent since."""
KEPT = timedelta(hours=1)
"""How long the same response can be given again."""
_PARTITION = 50
"""Documents that are converted to Python strings at once, during which no other thread runs."""

OUTBOX = leases.LeasedTable(
    name="prediction",
    due="state = 'pending'",
    held="state = 'pending'",
    order="instance, ls_project_id, ls_task_id, model_version",
    # The time of an earlier attempt stays: that attempt may have reached Label Studio.
    on_release="attempted_at = CASE WHEN attempt > 1 THEN attempted_at END",
    on_failure="state = CASE WHEN {again} THEN 'pending' ELSE 'failed' END, "
    "document = CASE WHEN {again} THEN document END, error_code = owned.code, error_detail = owned.detail",
)


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A prediction that belongs to this worker until its lease expires."""

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
    """A sent prediction of which Label Studio may have duplicates."""

    id: int
    ls_project_id: int
    ls_task_id: int
    model_version: str
    ls_prediction_id: int | None
    """None: it was the response to /predict."""


_NO_ERROR = "error_code = NULL, error_detail = NULL"
# An earlier claim may have sent it as well: its sender was suspended and killed, or its POST is stored late.
_CHECK_DUPLICATES = f"""
    next_duplicate_check_at = CASE WHEN attempted_at IS NULL THEN next_duplicate_check_at
        ELSE now() + interval '{DUPLICATE_CHECK_AFTER[0].total_seconds():.0f} seconds' END,
    duplicate_checks = CASE WHEN attempted_at IS NULL THEN duplicate_checks ELSE 0 END
"""


def version_of(vocabulary_digest: str, region_digest: str) -> str:
    """Return SQL for car.model_version.label_studio_version of a result; the digests are SQL too."""
    models_and_recipe = r"regexp_replace(result.model_version, '\.[0-9a-f]{8}$', '')"
    return f"{models_and_recipe} || '.' || left({vocabulary_digest}, 8) || '.' || left({region_digest}, 8)"


# A row with another result belongs to a task whose image or vocabulary changed: it is sent again, and the attempt
# fences off its holder.
_ENQUEUE = text(f"""
    INSERT INTO prediction AS row (instance, ls_project_id, ls_task_id, model_version, item_id, result_id)
    SELECT new.* FROM (
        SELECT project.instance, project.ls_project_id, task.ls_task_id,
            {version_of("project.vocabulary_digest", "project.region_digest")} AS model_version,
            item.id AS item_id, item.result_id
        FROM unnest(CAST(:ids AS bigint[])) AS ended(id)
        JOIN item ON item.id = ended.id AND item.state = 'done'
        JOIN task ON task.item_id = item.id
        JOIN project ON project.job_id = task.job_id
        JOIN result ON result.id = item.result_id
    ) AS new
    LEFT JOIN LATERAL (
        -- One row at most; the limit keeps the planner from comparing each with each.
        SELECT row.result_id, row.error_code FROM prediction AS row
        WHERE row.instance = new.instance AND row.ls_project_id = new.ls_project_id
            AND row.ls_task_id = new.ls_task_id AND row.model_version = new.model_version
        LIMIT 1
    ) AS known ON true
    WHERE known.result_id IS NULL OR known.result_id <> new.result_id OR known.error_code = '{SUPERSEDED}'
    ORDER BY new.instance, new.ls_project_id, new.ls_task_id, new.model_version
    ON CONFLICT (instance, ls_project_id, ls_task_id, model_version) DO UPDATE
    SET item_id = excluded.item_id, result_id = excluded.result_id, state = 'pending', attempt = row.attempt + 1,
        {leases.RESET}, document = NULL, score = NULL, {_NO_ERROR}
    WHERE row.result_id <> excluded.result_id OR row.error_code = '{SUPERSEDED}'
""")  # noqa: S608 - made of its own constants, as all below

# Two searches, each along its own index: rows that wait for a /predict request must not slow down the others.
CHOOSE = text(f"""
    WITH unrendered AS (
        SELECT id, available_at FROM prediction WHERE {OUTBOX.is_available} AND document IS NULL
        ORDER BY available_at, id LIMIT :limit FOR UPDATE SKIP LOCKED
    ), to_send AS (
        SELECT id, available_at FROM prediction
        WHERE {OUTBOX.is_available} AND instance = CAST(:instance AS text)
        ORDER BY available_at, id LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    SELECT id FROM (SELECT * FROM unrendered UNION SELECT * FROM to_send) AS due
    ORDER BY available_at, id LIMIT :limit
""")  # noqa: S608

# Of the project's present vocabulary and regions, and of the image that the task has now.
_LIVE = text("""
    SELECT prediction.id FROM prediction
    JOIN project ON project.instance = prediction.instance AND project.ls_project_id = prediction.ls_project_id
    JOIN task ON task.job_id = project.job_id AND task.ls_task_id = prediction.ls_task_id
    JOIN item ON item.id = task.item_id AND item.result_id = prediction.result_id
    WHERE prediction.id = ANY(CAST(:ids AS bigint[]))
        AND right(prediction.model_version, 17) = left(project.vocabulary_digest, 8) || '.'
            || left(project.region_digest, 8)
""")

# A row that may have reached Label Studio is kept, so that it is searched for there before it is sent again.
_UNTRIED = "attempt = 0 AND ls_prediction_id IS NULL"
_DROP = (
    text(f"DELETE FROM prediction WHERE id = ANY(CAST(:ids AS bigint[])) AND {_UNTRIED}"),  # noqa: S608
    text(f"""
        UPDATE prediction
        SET state = 'failed', error_code = '{SUPERSEDED}', document = NULL, {leases.LET_GO},
            error_detail = 'the project''s vocabulary, regions or image have changed'
        WHERE id = ANY(CAST(:ids AS bigint[])) AND NOT ({_UNTRIED})
    """),  # noqa: S608
)

_CLAIM = leases.claim_statement(
    OUTBOX,
    "chosen AS (SELECT unnest(CAST(:ids AS bigint[])) AS id)",
    """prediction.id, prediction.attempt, prediction.instance, prediction.ls_project_id, prediction.ls_task_id,
        prediction.model_version, prediction.result_id, result.run_key, result.masks_key, prediction.document,
        project.label_config, project.extra_params, prediction.failure_count, prediction.ls_prediction_id""",
    tables={
        "result": "result.id = prediction.result_id",
        "project": "project.instance = prediction.instance AND project.ls_project_id = prediction.ls_project_id",
    },
    also=f"""
        attempted_at = CASE WHEN prediction.instance = CAST(:instance AS text) THEN now() ELSE attempted_at END,
        {_CHECK_DUPLICATES}
    """,
)

_STORE_RENDERED = """
    document = owned.new_document, score = owned.new_score,
    worker = CASE WHEN CAST(:keep AS bool) THEN worker END,
    lease_expires_at = CASE WHEN CAST(:keep AS bool) THEN lease_expires_at END
"""
_SENT = f"""
    state = 'sent', ls_prediction_id = :ls_prediction_id, sent_at = now(), document = NULL, failure_count = 0,
    {_NO_ERROR}, {leases.LET_GO}
"""
_ORPHANED = f"state = 'orphaned', ls_prediction_id = NULL, document = NULL, {_NO_ERROR}, {leases.LET_GO}"

_RETRY = text(f"""
    WITH unsent AS (
        SELECT id FROM prediction
        WHERE instance = :instance AND ls_project_id = :project AND {OUTBOX.is_free}
            AND (state = 'failed' AND error_code IS DISTINCT FROM '{SUPERSEDED}'
                OR state = 'pending' AND failure_count > 0)
        {OUTBOX.order_by} FOR UPDATE SKIP LOCKED
    )
    UPDATE prediction SET state = 'pending', document = NULL, failure_count = 0, available_at = now(), {_NO_ERROR}
    FROM unsent WHERE prediction.id = unsent.id RETURNING 1
""")  # noqa: S608

_REQUESTED = """
    prediction.instance = :instance AND prediction.ls_project_id = :project
    AND prediction.ls_task_id = ANY(CAST(:tasks AS bigint[]))
    AND (prediction.attempted_at IS NULL OR prediction.attempted_at < now() - CAST(:just_now AS interval))
    AND EXISTS (
        SELECT 1 FROM task JOIN item ON item.id = task.item_id
        WHERE task.job_id = :job AND task.ls_task_id = prediction.ls_task_id AND item.result_id = prediction.result_id
    )
"""
_NOT_JUST_SENT = "(prediction.sent_at IS NULL OR prediction.sent_at < now() - CAST(:just_now AS interval))"
# Returned as a response and not sent by a publisher: a client that asks again has not stored it.
_ANSWERED = "prediction.state = 'sent' AND prediction.ls_prediction_id IS NULL AND prediction.document IS NOT NULL"

_REQUEUE_DELETED = text(f"""
    WITH deleted AS (
        SELECT prediction.id FROM prediction
        WHERE {_REQUESTED} AND {_NOT_JUST_SENT} AND prediction.model_version = :version
            AND prediction.state IN ('sent', 'orphaned')
        {OUTBOX.order_by} FOR UPDATE SKIP LOCKED
    )
    UPDATE prediction
    SET state = 'pending', ls_prediction_id = NULL, failure_count = 0, available_at = now(), {_NO_ERROR}
    FROM deleted WHERE prediction.id = deleted.id
""")  # noqa: S608

_TAKE_FOR_RESPONSE = text(f"""
    WITH free AS MATERIALIZED (
        SELECT prediction.id, prediction.ls_task_id, prediction.document, prediction.state = 'sent' AS again
        FROM prediction
        WHERE {_REQUESTED} AND (
                {_ANSWERED}
                OR {_NOT_JUST_SENT} AND prediction.state = 'pending' AND prediction.document IS NOT NULL
                    AND {OUTBOX.is_free}
            )
            AND CASE WHEN CAST(:version AS text) IS NULL THEN right(prediction.model_version, 17) = :digests
                ELSE prediction.model_version = :version END
        {OUTBOX.order_by} FOR UPDATE SKIP LOCKED
    ), fitting AS (
        SELECT id, document, sum(octet_length(document)) OVER (ORDER BY again, ls_task_id) AS bytes FROM free
    )
    UPDATE prediction
    SET state = 'sent', sent_at = now(), attempt = attempt + 1, ls_prediction_id = NULL, {leases.LET_GO},
        {_CHECK_DUPLICATES}, {_NO_ERROR}
    FROM fitting WHERE prediction.id = fitting.id AND fitting.bytes <= :max_bytes
    RETURNING prediction.ls_task_id, fitting.document
""")  # noqa: S608

_FORGET_DOCUMENTS = text(f"""
    UPDATE prediction SET document = NULL WHERE id IN (
        SELECT id FROM prediction WHERE {_ANSWERED} AND sent_at < now() - CAST(:kept AS interval)
        {OUTBOX.order_by} LIMIT 5000 FOR UPDATE SKIP LOCKED
    ) RETURNING 1
""")  # noqa: S608

_REOPEN = text(f"""
    UPDATE prediction SET attempt = attempt + 1, attempted_at = now(), {leases.LET_GO}
    WHERE id = :id AND state = 'pending' RETURNING 1
""")  # noqa: S608

_CHECK_DUE = "state = 'sent' AND instance = CAST(:instance AS text) AND next_duplicate_check_at <= now()"
_CLAIM_CHECKS = text(f"""
    WITH due AS MATERIALIZED (
        SELECT id FROM prediction WHERE {_CHECK_DUE}
        ORDER BY next_duplicate_check_at, id LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    UPDATE prediction SET duplicate_checks = duplicate_checks + 1,
        next_duplicate_check_at = now() + (CAST(:waits AS interval[]))[duplicate_checks + 1]
    FROM due WHERE prediction.id = due.id
    RETURNING prediction.id, ls_project_id, ls_task_id, model_version, ls_prediction_id
""")  # noqa: S608
_CHECKS_WAITING = text(f"SELECT EXISTS (SELECT 1 FROM prediction WHERE {_CHECK_DUE})")  # noqa: S608


extend = partial(leases.extend, table=OUTBOX)
release = partial(leases.release, table=OUTBOX)


def enqueue(session: Session, item_ids: Collection[int]) -> None:
    """Add a pending prediction for every task of those items that are done. Idempotent."""
    if item_ids:
        session.execute(_ENQUEUE, {"ids": sorted(item_ids)})


def complete_items(session: Session, worker: str, completed: Sequence[CompletedItem]) -> set[int]:
    """Mark items done and enqueue predictions of their tasks; return the ids that this worker still held."""
    done = items.complete(session, worker, completed)
    # A separate statement sees tasks of a submission that the first one had to wait for.
    enqueue(session, [each.item.id for each in completed if each.item.id in done and each.item.instance is not None])
    return done


# Publishers


def claim(session: Session, worker: str, *, limit: int, lease: timedelta, instance: str | None) -> list[OutboxRow]:
    """Claim up to `limit` predictions: without a document those of any instance, with one those of `instance`, the only
    one that may be written to (None: no instance). Drop rows that the project's present configuration does not need.
    """
    while True:
        chosen = set(session.scalars(CHOOSE, {"limit": limit, "instance": instance}))
        live = set(session.scalars(_LIVE, {"ids": sorted(chosen)})) if chosen else set()
        for drop in _DROP if chosen - live else ():
            session.execute(drop, {"ids": sorted(chosen - live)})
        if live or not chosen:
            break
    rows = leases.claim(session, _CLAIM, worker, lease, ids=sorted(live), instance=instance) if live else ()
    return sorted((OutboxRow(*row) for row in rows), key=lambda row: row.id)


def store_rendered(
    session: Session, worker: str, rendered: Sequence[tuple[OutboxRow, str, float]], *, keep: bool
) -> set[int]:
    """Store documents, JSON text, with their scores; return the ids that this worker still held. `keep` keeps the
    leases because the worker sends the rows next.
    """
    columns: leases.Columns = {
        ("new_document", "text"): [document for _, document, _ in rendered],
        ("new_score", "double precision"): [score for _, _, score in rendered],
    }
    rows = [row for row, _, _ in rendered]
    return leases.change_owned(session, OUTBOX, worker, rows, _STORE_RENDERED, columns, {"keep": keep})


def mark_sent(session: Session, worker: str, row: OutboxRow, ls_prediction_id: int) -> bool:
    """Record Label Studio's id of the prediction. False: this worker lost the row; call `resolve_late_send`."""
    values = {"ls_prediction_id": ls_prediction_id}
    return bool(leases.change_owned(session, OUTBOX, worker, [row], _SENT, values=values))


def reschedule(
    session: Session, worker: str, row: OutboxRow, *, code: str, detail: str, at_least: timedelta = timedelta(0)
) -> bool:
    """Send the row again later, after a retryable error. False: this worker lost the row."""
    return bool(leases.fail(session, OUTBOX, worker, [(row, code, detail, True)], at_least=at_least))


def fail(session: Session, worker: str, row: OutboxRow, *, code: str, detail: str) -> bool:
    """Give the row up after a permanent error. False: this worker lost the row."""
    return bool(leases.fail(session, OUTBOX, worker, [(row, code, detail, False)]))


def mark_orphaned(session: Session, worker: str, row: OutboxRow) -> bool:
    """Record that Label Studio no longer has the task. False: this worker lost the row."""
    return bool(leases.change_owned(session, OUTBOX, worker, [row], _ORPHANED))


def waiting(session: Session, instance: str | None) -> bool:
    """Return whether a publisher that may write to `instance` would find a row to claim."""
    own = "instance = CAST(:instance AS text)"
    return leases.has_available(session, table=OUTBOX, where="document IS NULL") or leases.has_available(
        session, table=OUTBOX, where=own, instance=instance
    )


def retry(session: Session, project: models.Project) -> int:
    """Render and send a project's failed predictions again, and at once those that back off; return their count."""
    return len(session.execute(_RETRY, {"instance": project.instance, "project": project.ls_project_id}).all())


# Responses to /predict: the second way to Label Studio, which excludes the first


def take_for_response(
    session: Session, project: models.Project, tasks: Sequence[int], version: str | None, *, max_bytes: int
) -> dict[int, str]:
    """Take documents by task, `max_bytes` of them together; they count as sent when the transaction ends. Documents
    that a publisher holds or has just sent are left out; those of an earlier response are returned again. Without
    `version` the weights do not matter.
    """
    digests = f"{project.vocabulary_digest[:8]}.{project.region_digest[:8]}"
    values = _requested(project, tasks) | {"version": version, "digests": digests, "max_bytes": max_bytes}
    partitions = session.execute(_TAKE_FOR_RESPONSE, values).tuples().partitions(_PARTITION)
    return {task: document for partition in partitions for task, document in partition}


def requeue_deleted(session: Session, project: models.Project, tasks: Sequence[int], version: str) -> None:
    """Queue predictions again that Label Studio says it lacks, unless they were sent just now."""
    session.execute(_REQUEUE_DELETED, _requested(project, tasks) | {"version": version})


def forget_documents(session: Session) -> int:
    """Drop documents of old responses, which are rendered again on request; return their count."""
    return len(session.execute(_FORGET_DOCUMENTS, {"kept": KEPT}).all())


# Late sends and duplicates


def resolve_late_send(session: Session, row_id: int, ls_prediction_id: int) -> bool:
    """Return whether the sender must delete `ls_prediction_id`, which it stored for a row after its lease had expired.

    While the row is still to be sent, nothing may be deleted: its new holder may have found this very prediction and
    adopted it. So the row is taken from that holder, who then ends up here as well; the next one asks Label Studio and
    keeps the oldest of all that were stored.
    """
    if session.execute(_REOPEN, {"id": row_id}).one_or_none() is not None:
        return False
    kept_id = session.scalar(text("SELECT ls_prediction_id FROM prediction WHERE id = :id"), {"id": row_id})
    return bool(kept_id != ls_prediction_id)


def claim_checks(session: Session, instance: str, *, limit: int) -> list[DuplicateCheck]:
    """Take up to `limit` due duplicate checks, counted before they are made: the next one makes up for a failed one."""
    values = {"instance": instance, "limit": limit, "waits": list(DUPLICATE_CHECK_AFTER[1:])}
    return [DuplicateCheck(*row) for row in session.execute(_CLAIM_CHECKS, values)]


def checks_waiting(session: Session, instance: str) -> bool:
    """Return whether a duplicate check is due."""
    return bool(session.scalar(_CHECKS_WAITING, {"instance": instance}))


def keep_oldest(session: Session, check: DuplicateCheck, ls_prediction_id: int) -> None:
    """Record `ls_prediction_id` as the duplicate that stays in Label Studio."""
    if check.ls_prediction_id is not None:
        change = (
            "UPDATE prediction SET ls_prediction_id = :kept_id "
            "WHERE id = :id AND state = 'sent' AND ls_prediction_id = :known_id"
        )
        values = {"id": check.id, "known_id": check.ls_prediction_id, "kept_id": ls_prediction_id}
        session.execute(text(change), values)


def _requested(project: models.Project, tasks: Sequence[int]) -> dict[str, object]:
    return {
        "instance": project.instance,
        "project": project.ls_project_id,
        "job": project.job_id,
        "tasks": list(tasks),
        "just_now": JUST_NOW,
    }
