"""Tasks of Label Studio into items of their project's job, and what is known of them out again."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from car.bulk_source import MAX_URI, truncate_bytes
from car.errors import SourceError, VocabularyError
from car.label_studio.task_requests import TaskRequest
from car.model_version import label_studio_version
from db import leases, vocabularies
from db.errors import NotFoundError
from db.label_studio import outbox
from db.label_studio.projects import ResolvedProject
from db.leases import LONGEST_WAIT, storable
from db.models import PRIORITY_ORDER, Item, ItemState, Priority
from db.queue.items import MAX_FAILURES


@dataclass(frozen=True, kw_only=True)
class TaskSubmission:
    """A task whose picture is to be labelled."""

    ls_task_id: int
    uri: str = ""
    vocabulary_id: UUID | None = None
    """Its own words; None: the project's."""
    refused: tuple[str, str] | None = None
    """Code and detail of why it cannot be labelled: kept as a failed item, so that it is explained."""


@dataclass(frozen=True)
class TaskStatus:
    """What is known of a task's picture."""

    ls_task_id: int
    document: str | None
    """The prediction as JSON text, taken: it counts as sent, and nobody else sends it."""
    state: ItemState
    result_id: UUID | None
    error_code: str | None
    error_detail: str | None


# One submission at a time for a job, so that many with the same tasks take turns. Job, items in the order of ids,
# tasks, predictions: whoever locks several kinds of rows does it in this order.
_LOCK_JOB = text("SELECT vocabulary_id FROM job WHERE id = :job FOR NO KEY UPDATE")

_SUBMITTED = """
    submitted AS (
        SELECT * FROM unnest(
            CAST(:tasks AS bigint[]), CAST(:uris AS text[]), CAST(:etags AS text[]), CAST(:vocabularies AS uuid[]),
            CAST(:codes AS text[]), CAST(:details AS text[])
        ) AS submitted(ls_task_id, uri, etag, vocabulary_id, code, detail)
    )
"""
_ITS_ITEM = """
    item.job_id = :job AND item.uri = submitted.uri AND item.etag = submitted.etag
    AND item.vocabulary_id IS NOT DISTINCT FROM submitted.vocabulary_id
"""

_ADD_ITEMS = text(f"""
    WITH {_SUBMITTED}
    INSERT INTO item (job_id, priority, uri, etag, vocabulary_id, ls_task_id, state, error_code, error_detail,
    finished_at) SELECT DISTINCT ON (uri, etag, vocabulary_id) :job, :priority, uri, etag, vocabulary_id, ls_task_id,
    CASE WHEN code IS NULL THEN 'queued' ELSE 'failed' END, code, detail, CASE WHEN code IS NOT NULL THEN now() END FROM
    submitted WHERE NOT EXISTS (SELECT 1 FROM item WHERE {_ITS_ITEM}) ORDER BY uri, etag, vocabulary_id, ls_task_id ON
    CONFLICT DO NOTHING RETURNING state """)  # noqa: S608 - made of its own constants

_EXPLAIN = text(f"""
    WITH {_SUBMITTED}
    UPDATE item SET error_code = submitted.code, error_detail = submitted.detail
    FROM submitted WHERE submitted.code IS NOT NULL AND {_ITS_ITEM}
        AND (item.error_code, item.error_detail) IS DISTINCT FROM (submitted.code, submitted.detail)
""")  # noqa: S608

_LINK = text(f"""
    WITH {_SUBMITTED}
    INSERT INTO task (job_id, ls_task_id, item_id)
    SELECT :job, submitted.ls_task_id, item.id FROM submitted JOIN item ON {_ITS_ITEM}
    WHERE NOT EXISTS (
        SELECT 1 FROM task AS known
        WHERE known.job_id = :job AND known.ls_task_id = submitted.ls_task_id AND known.item_id = item.id
    )
    ORDER BY submitted.ls_task_id
    ON CONFLICT (job_id, ls_task_id) DO UPDATE SET item_id = excluded.item_id
""")  # noqa: S608

_FIND_ITEM = text(f"WITH {_SUBMITTED} SELECT item.id FROM submitted JOIN item ON {_ITS_ITEM}")  # noqa: S608

_ITEMS_OF = text("""
    SELECT item_id, max(ls_task_id) FROM task
    WHERE job_id = :job AND ls_task_id = ANY(CAST(:tasks AS bigint[])) GROUP BY item_id
""")

# An open item is locked although nothing of it changes: whoever ends it meanwhile would not see our tasks, which are
# not committed yet, and enqueue nothing for them.
_LOCK_OPEN = text(f"""
    SELECT item.id FROM item LEFT JOIN result ON result.id = item.result_id
    WHERE item.id = ANY(CAST(:ids AS bigint[])) AND (
        item.state IN ('queued', 'running', 'cancelled')
        OR item.state = 'done' AND {outbox.version_of(":vocabulary_digest", ":region_digest")} <> CAST(:version AS text)
        OR item.state = 'failed' AND item.failure_count >= :max_failures AND item.finished_at < now() - :longest
    )
    ORDER BY item.id FOR NO KEY UPDATE OF item
""")  # noqa: S608

_AGAIN = text(f"""
    UPDATE item
    SET state = 'queued', priority = :priority, lost_lease_count = 0, {leases.RESET}, finished_at = NULL,
        error_code = NULL, error_detail = NULL, result_id = NULL, reused = false, ls_task_id = again.ls_task_id
    FROM unnest(CAST(:ids AS bigint[]), CAST(:tasks AS bigint[])) AS again(id, ls_task_id)
    WHERE item.id = again.id AND state IN ('cancelled', 'failed', 'done')
    RETURNING 1
""")  # noqa: S608

_FORWARD = text("""
    UPDATE item SET priority = :priority
    WHERE id = ANY(CAST(:ids AS bigint[])) AND state = 'queued' AND priority > :priority
""")

_REOPEN = text("""
    UPDATE job SET finished_at = NULL, cancelled_at = NULL, item_counts = NULL, error_code = NULL, error_detail = NULL
    WHERE id = :job AND (finished_at IS NOT NULL OR cancelled_at IS NOT NULL)
""")

_STATUSES = text("""
    SELECT task.ls_task_id, item.state, item.result_id, item.error_code, item.error_detail
    FROM task JOIN item ON item.id = task.item_id
    WHERE task.job_id = :job AND task.ls_task_id = ANY(CAST(:tasks AS bigint[]))
""")


def submit(
    session: Session,
    project: ResolvedProject,
    submissions: Sequence[TaskSubmission],
    *,
    weights: Mapping[str, str] | None,
    priority: Priority = Priority.BULK,
    max_document_bytes: int = 0,
    missing: bool = False,
) -> list[TaskStatus]:
    """Queue what is not known, and say what is, in the order submitted. Notify SEGMENT where a state is queued, and for
    PUBLISH where one is done without a document, after the commit.

    `weights`: results of others than these are made again; None: any will do. `max_document_bytes`: of documents that
    may be taken. `missing`: Label Studio says that it has no prediction of our version; what was sent longer ago than
    `outbox.JUST_NOW` was deleted there, and goes out again.

    Failed items stay so, unless what failed too often may have passed by now; cancelled ones are queued again.
    """
    if not submissions:
        return []
    job, version = project.row.job_id, _version(project, weights)
    rows = _rows(project, submissions) | {"job": job, "priority": PRIORITY_ORDER[priority]}
    session.execute(_LOCK_JOB, {"job": job})
    opened = "queued" in session.scalars(_ADD_ITEMS, rows).all()
    if any(code is not None for code in rows["codes"]):
        session.execute(_EXPLAIN, rows)
    session.execute(_LINK, rows)
    here = {"job": job, "tasks": rows["tasks"]}
    items = dict(session.execute(_ITEMS_OF, here).tuples().all())
    opened |= _again(session, project, items, version, priority)
    if opened:
        session.execute(_REOPEN, {"job": job})
    outbox.enqueue(session, items)
    if missing and version is not None:
        outbox.requeue_deleted(session, project.row, rows["tasks"], version)
    taken = {}
    if max_document_bytes:
        taken = outbox.take_for_response(session, project.row, rows["tasks"], version, max_bytes=max_document_bytes)
    statuses = {row.ls_task_id: row for row in session.execute(_STATUSES, here)}
    # The same task twice in one request would be two predictions in Label Studio: the first one has it.
    return [_status(statuses[one.ls_task_id], taken.pop(one.ls_task_id, None)) for one in submissions]


def submit_interactive(
    session: Session, project: ResolvedProject, submission: TaskSubmission, *, weights: Mapping[str, str] | None = None
) -> int:
    """Queue an item for somebody who waits, and return its id: nothing of it goes to Label Studio by itself. Notify
    SEGMENT.
    """
    job = project.row.job_id
    rows = _rows(project, [submission]) | {"job": job, "priority": PRIORITY_ORDER[Priority.INTERACTIVE]}
    session.execute(_LOCK_JOB, {"job": job})
    opened = "queued" in session.scalars(_ADD_ITEMS, rows).all()
    item_id: int = session.scalars(_FIND_ITEM, rows).one()
    tasks = {item_id: submission.ls_task_id}
    opened |= _again(session, project, tasks, _version(project, weights), Priority.INTERACTIVE)
    if opened:
        session.execute(_REOPEN, {"job": job})
    return item_id


def status_of(session: Session, item_id: int) -> TaskStatus:
    """What has become of it; without a document, for its regions depend on the prompt.

    Raises:
        NotFoundError: there is no such item.

    """
    item = session.get(Item, item_id, populate_existing=True)
    if item is None:
        raise NotFoundError(f"there is no item {item_id}")
    return TaskStatus(
        item.ls_task_id or 0, None, ItemState(item.state), item.result_id, item.error_code, item.error_detail
    )


def _again(
    session: Session, project: ResolvedProject, items: Mapping[int, int], version: str | None, priority: Priority
) -> bool:
    """Queue what is to be done once more, in the name of its task, and move forward what somebody waits for; whether
    anything was queued.
    """
    values = {
        "ids": list(items),
        "vocabulary_digest": project.row.vocabulary_digest,
        "region_digest": project.row.region_digest,
        "version": version,
        "max_failures": MAX_FAILURES,
        "longest": LONGEST_WAIT,
    }
    locked = session.scalars(_LOCK_OPEN, values).all()
    if not locked:
        return False
    mine = {"ids": list(locked), "tasks": [items[one] for one in locked], "priority": PRIORITY_ORDER[priority]}
    again = session.execute(_AGAIN, mine).first() is not None
    if priority is Priority.INTERACTIVE:
        session.execute(_FORWARD, mine)
    return again


def _version(project: ResolvedProject, weights: Mapping[str, str] | None) -> str | None:
    if weights is None:
        return None
    return label_studio_version(weights, project.plan.recipe, project.row.vocabulary_digest, project.row.region_digest)


def _rows(project: ResolvedProject, submissions: Sequence[TaskSubmission]) -> dict[str, Any]:
    """Columns for `_SUBMITTED`, each task once, in the order of tasks."""
    by_task = {one.ls_task_id: one for one in submissions}
    each = [_storable(project, one) for _, one in sorted(by_task.items())]
    return {
        "tasks": [one.ls_task_id for one in each],
        "uris": [one.uri for one in each],
        # What was refused is an item of its own, whatever picture it shares with others.
        "etags": [f"task {one.ls_task_id}" if one.refused else "" for one in each],
        "vocabularies": [one.vocabulary_id for one in each],
        "codes": [one.refused[0] if one.refused else None for one in each],
        "details": [truncate_bytes(storable(one.refused[1])) if one.refused else None for one in each],
    }


def _storable(project: ResolvedProject, one: TaskSubmission) -> TaskSubmission:
    """With an address that an index can hold; refused, where nobody could work on it."""
    refused = one.refused
    if refused is None and (not one.uri or "\0" in one.uri or truncate_bytes(one.uri) != one.uri):
        detail = f"its picture's address is empty, not text, or longer than {MAX_URI:,} bytes"
        refused = (SourceError.code, detail)
    if refused is None and one.vocabulary_id is None and project.plan.vocabulary is None:
        refused = (VocabularyError.code, "the project's words are in its tasks, and this task has none")
    if refused is None:
        return one
    return TaskSubmission(
        ls_task_id=one.ls_task_id, uri=truncate_bytes(storable(one.uri)) or f"task {one.ls_task_id}", refused=refused
    )


def _status(row: Any, document: str | None) -> TaskStatus:  # noqa: ANN401 - a row of `_STATUSES`
    return TaskStatus(row.ls_task_id, document, ItemState(row.state), row.result_id, row.error_code, row.error_detail)


def store_vocabularies(session: Session, requests: Iterable[TaskRequest]) -> list[TaskSubmission]:
    """Store the words that tasks bring along, and return the requests as `submit` takes them."""
    each = list(requests)
    own = [one.vocabulary for one in each if one.vocabulary is not None]
    stored = vocabularies.get_or_create_many(session, own) if own else []
    ids = dict(zip((one.digest for one in own), stored, strict=True))
    return [
        TaskSubmission(
            ls_task_id=one.ls_task_id,
            uri=one.uri,
            vocabulary_id=ids[one.vocabulary.digest] if one.vocabulary is not None else None,
            refused=one.refused and (one.refused[0], storable(one.refused[1])),
        )
        for one in each
    ]
