"""Tasks that were deleted in Label Studio: nothing is computed for them alone, and nothing is sent to them."""

from collections.abc import Collection

from sqlalchemy import text
from sqlalchemy.orm import Session

from db import leases, models
from db.label_studio import project_jobs
from db.label_studio.outbox import OUTBOX

_LOCK_ITEMS = text("""
    SELECT id FROM item
    WHERE id IN (
        SELECT item_id FROM task
        WHERE job_id = ANY(CAST(:jobs AS uuid[])) AND ls_task_id = ANY(CAST(:tasks AS bigint[]))
    )
    ORDER BY id FOR NO KEY UPDATE
""")

_DELETE_TASKS = text("""
    DELETE FROM task WHERE job_id = ANY(CAST(:jobs AS uuid[])) AND ls_task_id = ANY(CAST(:tasks AS bigint[]))
""")

_CANCEL = text("""
    UPDATE item SET state = 'cancelled', finished_at = now()
    WHERE id = ANY(CAST(:items AS bigint[])) AND state = 'queued'
        AND NOT EXISTS (SELECT 1 FROM task WHERE task.item_id = item.id)
    RETURNING id
""")

# The attempt fences off the holder of a row, who then deletes what it has just sent.
_ORPHAN = text(f"""
    WITH pending AS (
        SELECT id FROM prediction
        WHERE instance = :instance AND ls_project_id = :ls_project_id
            AND ls_task_id = ANY(CAST(:tasks AS bigint[])) AND state = 'pending'
        {OUTBOX.order_by} FOR UPDATE
    )
    UPDATE prediction
    SET state = 'orphaned', attempt = attempt + 1, {leases.LET_GO}, document = NULL,
        error_code = 'task_deleted', error_detail = 'the task was deleted in Label Studio'
    FROM pending WHERE prediction.id = pending.id
""")  # noqa: S608 - made of its own constants


def delete_tasks(session: Session, project: models.Project, tasks: Collection[int]) -> int:
    """Orphan pending predictions of these tasks, cancel queued items that no other task uses, and return the number of
    those items. Results stay, because the same image may come again.
    """
    # Jobs, items in the order of ids, tasks, predictions: as in tasks.submit. Jobs of earlier configurations as well,
    # for returning to one must not bring the tasks back.
    values = {"jobs": list(project_jobs.lock_all(session, project)), "tasks": sorted(set(tasks))}
    items = session.scalars(_LOCK_ITEMS, values).all()
    session.execute(_DELETE_TASKS, values)
    cancelled = session.scalars(_CANCEL, {"items": list(items)}).all()
    session.execute(_ORPHAN, project_jobs.project_source(project) | {"tasks": values["tasks"]})
    return len(cancelled)
