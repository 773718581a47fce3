"""Label Studio tasks: submit them as items of their project's job, and read their status."""

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
    """A task whose image is to be labelled."""

    ls_task_id: int
    uri: str = ""
    vocabulary_id: UUID | None = None
    """The task's own vocabulary; None: the project's."""
    refused: tuple[str, str] | None = None
    """Error code and detail of a task that cannot be labelled; stored as a failed item, which shows why."""


@dataclass(frozen=True)
class TaskStatus:
    """The state of a task's image."""

    ls_task_id: int
    document: str | None
    """The prediction as JSON text, taken for this response: it counts as sent."""
    state: ItemState
    result_id: UUID | None
    error_code: str | None
    error_detail: str | None


# One submission of a job at a time, so that those with the same tasks take turns. Lock order everywhere: job, items by
# id, tasks, predictions.
_LOCK_JOB = text("SELECT vocabulary_id FROM job WHERE id = :job FOR NO KEY UPDATE")

_SUBMITTED = """
    submitted AS (
        SELECT * FROM unnest(
            CAST(:tasks AS bigint[]), CAST(:uris AS text[]), CAST(:etags AS text[]), CAST(:vocabularies AS uuid[]),
            CAST(:codes AS text[]), CAST(:details AS text[])
        ) AS submitted(ls_task_id, uri, etag, vocabulary_id, code, detail)
    )
"""
_SUBMITTED_ITEM = """
    item.job_id = :job AND item.uri = submitted.uri AND item.etag = submitted.etag
    AND item.vocabulary_id IS NOT DISTINCT FROM submitted.vocabulary_id
"""

_ADD_ITEMS = text(f"""
    WITH {_SUBMITTED}
    INSERT INTO item
        (job_id, priority, uri, etag, vocabulary_id, ls_task_id, state, error_code, error_detail, finished_at)
    SELECT DISTINCT ON (uri, etag, vocabulary_id)
        :job, :priority, uri, etag, vocabulary_id, ls_task_id, CASE WHEN code IS NULL THEN 'queued' ELSE 'failed' END,
        code, detail, CASE WHEN code IS NOT NULL THEN now() END
    FROM submitted WHERE NOT EXISTS (SELECT 1 FROM item WHERE {_SUBMITTED_ITEM})
    ORDER BY uri, etag, vocabulary_id, ls_task_id
    ON CONFLICT DO NOTHING RETURNING state
""")  # noqa: S608 - made of its own constants

_EXPLAIN = text(f"""
    WITH {_SUBMITTED}
    UPDATE item SET error_code = submitted.code, error_detail = submitted.detail
    FROM submitted WHERE submitted.code IS NOT NULL AND {_SUBMITTED_ITEM}
        AND (item.error_code, item.error_detail) IS DISTINCT FROM (submitted.code, submitted.detail)
""")  # noqa: S608

_LINK = text(f"""
    WITH {_SUBMITTED}
    INSERT INTO task (job_id, ls_task_id, item_id)
    SELECT :job, submitted.ls_task_id, item.id FROM submitted JOIN item ON {_SUBMITTED_ITEM}
    WHERE NOT EXISTS (
        SELECT 1 FROM task AS known
        WHERE known.job_id = :job AND known.ls_task_id = submitted.ls_task_id AND known.item_id = item.id
    )
    ORDER BY submitted.ls_task_id
    ON CONFLICT (job_id, ls_task_id) DO UPDATE SET item_id = excluded.item_id
""")  # noqa: S608

_FIND_ITEM = text(f"WITH {_SUBMITTED} SELECT item.id FROM submitted JOIN item ON {_SUBMITTED_ITEM}")  # noqa: S608

_ITEMS_BY_TASK = text("""
    SELECT item_id, max(ls_task_id) FROM task
    WHERE job_id = :job AND ls_task_id = ANY(CAST(:tasks AS bigint[])) GROUP BY item_id
""")

# An open item is locked although it does not change: a worker that completes it meanwhile would not see these
# uncommitted tasks and enqueue nothing for them.
_LOCK_OPEN = text(f"""
    SELECT item.id FROM item LEFT JOIN result ON result.id = item.result_id
    WHERE item.id = ANY(CAST(:ids AS bigint[])) AND (
        item.state IN ('queued', 'running', 'cancelled')
        OR item.state = 'done' AND {outbox.version_of(":vocabulary_digest", ":region_digest")} <> CAST(:version AS text)
        OR item.state = 'failed' AND item.failure_count >= :max_failures AND item.finished_at < now() - :longest
    )
    ORDER BY item.id FOR NO KEY UPDATE OF item
""")  # noqa: S608

_REQUEUE = text(f"""
    UPDATE item
    SET state = 'queued', priority = :priority, lost_lease_count = 0, {leases.RESET}, finished_at = NULL,
        error_code = NULL, error_detail = NULL, result_id = NULL, reused = false, ls_task_id = requeued.ls_task_id
    FROM unnest(CAST(:ids AS bigint[]), CAST(:tasks AS bigint[])) AS requeued(id, ls_task_id)
    WHERE item.id = requeued.id AND state IN ('cancelled', 'failed', 'done')
    RETURNING 1
""")  # noqa: S608

_RAISE_PRIORITY = text("""
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
    """Queue items of new tasks and return the status of all, in the order submitted. After the commit, notify SEGMENT
    if a state is queued, and PUBLISH if one is done without a document.

    Results of other `weights` are computed again; None accepts any. Documents of at most `max_document_bytes` together
    are taken for the response. `missing` means that Label Studio lacks predictions of our version: those that were
    sent longer than `outbox.JUST_NOW` ago were deleted there, and are sent again.

    Cancelled items are queued again; failed ones only after a retryable error that is long past.
    """
    if not submissions:
        return []
    job, version = project.row.job_id, _version(project, weights)
    rows, added = _add_items(session, project, submissions, priority)
    if any(code is not None for code in rows["codes"]):
        session.execute(_EXPLAIN, rows)
    session.execute(_LINK, rows)
    job_tasks = {"job": job, "tasks": rows["tasks"]}
    items = dict(session.execute(_ITEMS_BY_TASK, job_tasks).tuples().all())
    if _requeue(session, project, items, version, priority) or added:
        session.execute(_REOPEN, {"job": job})
    outbox.enqueue(session, items)
    if missing and version is not None:
        outbox.requeue_deleted(session, project.row, rows["tasks"], version)
    documents = {}
    if max_document_bytes:
        documents = outbox.take_for_response(session, project.row, rows["tasks"], version, max_bytes=max_document_bytes)
    statuses = {row.ls_task_id: row for row in session.execute(_STATUSES, job_tasks)}
    # A task that is twice in one request would get two predictions in Label Studio: only its first status has one.
    return [
        TaskStatus(
            task, documents.pop(task, None), ItemState(row.state), row.result_id, row.error_code, row.error_detail
        )
        for task in (submission.ls_task_id for submission in submissions)
        for row in [statuses[task]]
    ]


def submit_interactive(
    session: Session, project: ResolvedProject, submission: TaskSubmission, *, weights: Mapping[str, str] | None = None
) -> int:
    """Queue an item for a waiting user and return its id; its result is not published to Label Studio. Notify SEGMENT
    after the commit.
    """
    rows, added = _add_items(session, project, [submission], Priority.INTERACTIVE)
    item_id: int = session.scalars(_FIND_ITEM, rows).one()
    tasks = {item_id: submission.ls_task_id}
    if _requeue(session, project, tasks, _version(project, weights), Priority.INTERACTIVE) or added:
        session.execute(_REOPEN, {"job": project.row.job_id})
    return item_id


def status_of(session: Session, item_id: int) -> TaskStatus:
    """Return the status of an interactive item; without a document, because its regions depend on the prompt. Raises
    NotFoundError.
    """
    item = session.get(Item, item_id, populate_existing=True)
    if item is None:
        raise NotFoundError(f"there is no item {item_id}")
    state = ItemState(item.state)
    return TaskStatus(item.ls_task_id or 0, None, state, item.result_id, item.error_code, item.error_detail)


def _add_items(
    session: Session, project: ResolvedProject, submissions: Sequence[TaskSubmission], priority: Priority
) -> tuple[dict[str, Any], bool]:
    """Lock the job and add missing items; return the columns for `_SUBMITTED` and whether an item was queued."""
    rows = _rows(project, submissions) | {"job": project.row.job_id, "priority": PRIORITY_ORDER[priority]}
    session.execute(_LOCK_JOB, rows)
    return rows, "queued" in session.scalars(_ADD_ITEMS, rows).all()


def _requeue(
    session: Session, project: ResolvedProject, items: Mapping[int, int], version: str | None, priority: Priority
) -> bool:
    """Queue items that must be computed again, for their tasks, and raise the priority of those that a user waits for;
    return whether any was queued.
    """
    values = {
        "ids": list(items),
        "vocabulary_digest": project.row.vocabulary_digest,
        "region_digest": project.row.region_digest,
        "version": version,
        "max_failures": MAX_FAILURES,
        "longest": LONGEST_WAIT,
    }
    ids = session.scalars(_LOCK_OPEN, values).all()
    if not ids:
        return False
    locked = {"ids": list(ids), "tasks": [items[item_id] for item_id in ids], "priority": PRIORITY_ORDER[priority]}
    any_queued = session.execute(_REQUEUE, locked).first() is not None
    if priority is Priority.INTERACTIVE:
        session.execute(_RAISE_PRIORITY, locked)
    return any_queued


def _version(project: ResolvedProject, weights: Mapping[str, str] | None) -> str | None:
    if weights is None:
        return None
    return label_studio_version(
        weights, project.config.recipe, project.row.vocabulary_digest, project.row.region_digest
    )


def _rows(project: ResolvedProject, submissions: Sequence[TaskSubmission]) -> dict[str, Any]:
    """Return columns for `_SUBMITTED`, each task once, in the order of tasks."""
    by_task = {submission.ls_task_id: submission for submission in submissions}
    rows = [_storable(project, submission) for _, submission in sorted(by_task.items())]
    return {
        "tasks": [row.ls_task_id for row in rows],
        "uris": [row.uri for row in rows],
        # A refused task has its own item, even if it shares an image with others.
        "etags": [f"task {row.ls_task_id}" if row.refused else "" for row in rows],
        "vocabularies": [row.vocabulary_id for row in rows],
        "codes": [row.refused[0] if row.refused else None for row in rows],
        "details": [truncate_bytes(storable(row.refused[1])) if row.refused else None for row in rows],
    }


def _storable(project: ResolvedProject, submission: TaskSubmission) -> TaskSubmission:
    """Refuse a task that no worker could process, and shorten the URI of a refused one so that an index can hold it."""
    uri, refused = submission.uri, submission.refused
    if refused is None and (not uri or "\0" in uri or truncate_bytes(uri) != uri):
        refused = (SourceError.code, f"the image's URI is empty, not text, or longer than {MAX_URI:,} bytes")
    if refused is None and submission.vocabulary_id is None and project.config.vocabulary is None:
        refused = (VocabularyError.code, "the project takes its labels from its tasks, and this task has none")
    if refused is None:
        return submission
    task = submission.ls_task_id
    return TaskSubmission(ls_task_id=task, uri=truncate_bytes(storable(uri)) or f"task {task}", refused=refused)


def store_vocabularies(session: Session, requests: Iterable[TaskRequest]) -> list[TaskSubmission]:
    """Store the tasks' own vocabularies and return the requests as `submit` takes them."""
    requests = list(requests)
    own = [request.vocabulary for request in requests if request.vocabulary is not None]
    ids = iter(vocabularies.get_or_create_many(session, own) if own else [])
    return [
        TaskSubmission(
            ls_task_id=request.ls_task_id,
            uri=request.uri,
            vocabulary_id=next(ids) if request.vocabulary is not None else None,
            refused=request.refused and (request.refused[0], storable(request.refused[1])),
        )
        for request in requests
    ]
