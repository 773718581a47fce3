"""Tasks that were deleted in Label Studio: nothing is computed for them alone, and nothing is sent to them."""

import json
from collections.abc import Collection

from sqlalchemy import text
from sqlalchemy.orm import Session

from db import models

# Job, items in order of ids, tasks, predictions: as in tasks.submit. Also jobs of former words: going back to them must
# not bring the tasks back.
_LOCK_JOBS = text("""
    SELECT id FROM job WHERE kind = 'label_studio' AND source @> CAST(:project AS jsonb)
    ORDER BY id FOR NO KEY UPDATE
""")

_LOCK_ITEMS = text("""
    SELECT id FROM item
    WHERE id IN (
        SELECT item_id FROM task
        WHERE job_id = ANY(CAST(:jobs AS uuid[])) AND ls_task_id = ANY(CAST(:tasks AS bigint[]))
    )
    ORDER BY id FOR NO KEY UPDATE
""")

_FORGET = text("""
    DELETE FROM task WHERE job_id = ANY(CAST(:jobs AS uuid[])) AND ls_task_id = ANY(CAST(:tasks AS bigint[]))
""")

_CANCEL = text("""
    UPDATE item SET state = 'cancelled', finished_at = now()
    WHERE id = ANY(CAST(:items AS bigint[])) AND state = 'queued'
        AND NOT EXISTS (SELECT 1 FROM task WHERE task.item_id = item.id)
    RETURNING id
""")

# Attempt + 1: who holds one of them is fenced off, and takes back what it has just sent.
_ORPHAN = text("""
    WITH theirs AS (
        SELECT id FROM prediction
        WHERE instance = :instance AND ls_project_id = :project
            AND ls_task_id = ANY(CAST(:tasks AS bigint[])) AND state = 'pending'
        ORDER BY instance, ls_project_id, ls_task_id, model_version FOR UPDATE
    )
    UPDATE prediction
    SET state = 'orphaned', attempt = attempt + 1, worker = NULL, lease_expires_at = NULL, document = NULL,
        error_code = 'task_deleted', error_detail = 'the task was deleted in Label Studio'
    FROM theirs WHERE prediction.id = theirs.id
""")


def tasks_deleted(session: Session, project: models.Project, tasks: Collection[int]) -> int:
    """Pending predictions of these tasks become orphaned; queued pictures that no other task means are cancelled. How
    many pictures. What was computed stays: the same picture may come again.
    """
    of = {"instance": project.instance, "project": project.ls_project_id}
    jobs = session.scalars(_LOCK_JOBS, {"project": json.dumps(of)}).all()
    given = {"jobs": list(jobs), "tasks": sorted(set(tasks))}
    items = session.scalars(_LOCK_ITEMS, given).all()
    session.execute(_FORGET, given)
    cancelled = session.scalars(_CANCEL, {"items": list(items)}).all()
    session.execute(_ORPHAN, {"instance": project.instance, "project": project.ls_project_id, "tasks": given["tasks"]})
    return len(cancelled)
