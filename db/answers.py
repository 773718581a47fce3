"""Predictions as answers to /predict: the second way to Label Studio, which excludes the first."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from db import models
from db.predictions import JUST_NOW
from db.second_looks import DOUBTFUL

KEPT = timedelta(hours=1)
"""How long an answer can be given again as it is."""

_ASKED = """
    prediction.instance = :instance AND prediction.project = :project
    AND prediction.task = ANY(CAST(:tasks AS bigint[]))
    AND (prediction.attempted_at IS NULL OR prediction.attempted_at < now() - CAST(:just_now AS interval))
    AND EXISTS (
        SELECT 1 FROM task JOIN item ON item.id = task.item_id
        WHERE task.job_id = :job AND task.task = prediction.task AND item.result_id = prediction.result_id
    )
"""
_LONG_SENT = "(prediction.sent_at IS NULL OR prediction.sent_at < now() - CAST(:just_now AS interval))"
_ANSWERED = "prediction.state = 'sent' AND prediction.prediction IS NULL AND prediction.document IS NOT NULL"
"""Given as an answer, and by nobody else: whoever asks again did not store it."""
_IN_ORDER = "ORDER BY prediction.instance, prediction.project, prediction.task, prediction.model_version"

_REVIVE = text(f"""
    WITH deleted AS (
        SELECT prediction.id FROM prediction
        WHERE {_ASKED} AND {_LONG_SENT} AND prediction.model_version = :version
            AND prediction.state IN ('sent', 'orphaned')
        {_IN_ORDER} FOR UPDATE SKIP LOCKED
    )
    UPDATE prediction
    SET state = 'pending', prediction = NULL, failures = 0, not_before = now(), error_code = NULL, error_detail = NULL
    FROM deleted WHERE prediction.id = deleted.id
""")  # noqa: S608 - made of its own constants

_TAKE = text(f"""
    WITH free AS MATERIALIZED (
        SELECT prediction.id, prediction.task, prediction.document, prediction.state = 'sent' AS again FROM prediction
        WHERE {_ASKED} AND (
                {_ANSWERED}
                OR {_LONG_SENT} AND prediction.state = 'pending' AND prediction.document IS NOT NULL
                    AND (prediction.leased_until IS NULL OR prediction.leased_until < now())
            )
            AND CASE WHEN CAST(:version AS text) IS NULL THEN right(prediction.model_version, 17) = :ends
                ELSE prediction.model_version = :version END
        {_IN_ORDER} FOR UPDATE SKIP LOCKED
    ), fitting AS (
        SELECT id, document, sum(octet_length(document)) OVER (ORDER BY again, task) AS bytes FROM free
    )
    UPDATE prediction
    SET state = 'sent', sent_at = now(), attempt = attempt + 1, prediction = NULL, worker = NULL, leased_until = NULL,
        look_at = CASE WHEN attempted_at IS NULL THEN look_at ELSE {DOUBTFUL} END,
        looks = CASE WHEN attempted_at IS NULL THEN looks ELSE 0 END,
        error_code = NULL, error_detail = NULL
    FROM fitting WHERE prediction.id = fitting.id AND fitting.bytes <= :most
    RETURNING prediction.task, fitting.document
""")  # noqa: S608

_AT_ONCE = 50
"""Documents that are made Python's in one go, in which no other thread runs."""

_FORGET = text(f"""
    UPDATE prediction SET document = NULL WHERE id IN (
        SELECT id FROM prediction WHERE {_ANSWERED} AND sent_at < now() - CAST(:kept AS interval)
        {_IN_ORDER} LIMIT 5000 FOR UPDATE SKIP LOCKED
    ) RETURNING 1
""")  # noqa: S608


def take(
    session: Session, project: models.Project, tasks: Sequence[int], version: str | None, *, most: int
) -> dict[int, str]:
    """Documents by task, of so many bytes together: they count as sent when the transaction ends. None that a publisher
    has, or sent just now; what was answered before is answered again. Without `version`, whatever the weights.
    """
    ends = f"{project.words[:8]}.{project.regions[:8]}"
    given = _asked(project, tasks) | {"version": version, "ends": ends, "most": most}
    taken = session.execute(_TAKE, given).tuples().partitions(_AT_ONCE)
    return {task: document for some in taken for task, document in some}


def revive(session: Session, project: models.Project, tasks: Sequence[int], version: str) -> None:
    """Label Studio says that it has none of this version for these tasks: those that were not sent just now were
    deleted there, and go out again.
    """
    session.execute(_REVIVE, _asked(project, tasks) | {"version": version})


def forget(session: Session) -> int:
    """Documents that were answered long ago; how many. Asked for once more, they are rendered anew."""
    return len(session.execute(_FORGET, {"kept": KEPT}).all())


def _asked(project: models.Project, tasks: Sequence[int]) -> dict[str, object]:
    return {
        "instance": project.instance,
        "project": project.number,
        "job": project.job_id,
        "tasks": list(tasks),
        "just_now": JUST_NOW,
    }
