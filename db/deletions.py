"""Tasks that were deleted in Label Studio: nothing is computed for them alone, and nothing is sent to them."""

import json
from collections.abc import Collection

from sqlalchemy import text
from sqlalchemy.orm import Session

from db import models

# Attempt + 1: who holds one of them is fenced off, and takes back what it has just sent.
_ORPHAN = text("""
    UPDATE prediction
    SET state = 'orphaned', attempt = attempt + 1, worker = NULL, leased_until = NULL, document = NULL,
        error_code = 'task_deleted', error_detail = 'the task was deleted in Label Studio'
    WHERE instance = :instance AND project = :number AND task = ANY(CAST(:tasks AS bigint[])) AND state = 'pending'
""")

# Also of earlier jobs of the project: going back to their words must not bring the tasks back.
_FORGET = text("""
    DELETE FROM task
    WHERE task = ANY(CAST(:tasks AS bigint[]))
        AND job_id IN (SELECT id FROM job WHERE kind = 'label_studio' AND source @> CAST(:project AS jsonb))
    RETURNING item_id
""")

# One order everywhere, so that two who end the same items wait for each other and do not deadlock.
_CANCEL = text("""
    WITH lone AS (
        SELECT id FROM item
        WHERE id = ANY(CAST(:items AS bigint[])) AND state = 'queued'
            AND NOT EXISTS (SELECT 1 FROM task WHERE task.item_id = item.id)
        ORDER BY id FOR UPDATE
    )
    UPDATE item SET state = 'cancelled', finished_at = now() FROM lone WHERE item.id = lone.id AND state = 'queued'
    RETURNING item.id
""")


def tasks_deleted(session: Session, project: models.Project, tasks: Collection[int]) -> int:
    """Pending predictions of these tasks become orphaned; queued pictures that no other task means are cancelled. How
    many pictures. What was computed stays: the same picture may come again.
    """
    of = {"instance": project.instance, "project": project.number}
    numbers = sorted(set(tasks))
    session.execute(_ORPHAN, {"instance": project.instance, "number": project.number, "tasks": numbers})
    items = sorted(set(session.scalars(_FORGET, {"project": json.dumps(of), "tasks": numbers})))
    return len(session.scalars(_CANCEL, {"items": items}).all()) if items else 0
