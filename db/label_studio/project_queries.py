"""Progress of a project, and its tasks page by page."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from car.model_version import label_studio_version
from car.recipe import Recipe
from db import model_registry, models
from db.label_studio.outbox import SUPERSEDED
from db.models import ItemState, PredictionState
from db.pagination import Cursor


@dataclass(frozen=True)
class Reason:
    """Why some tasks have no prediction."""

    code: str
    count: int
    example: str
    """Error detail of the task `ls_task_id`."""
    ls_task_id: int


@dataclass(frozen=True)
class ProjectProgress:
    """Counts of a project's tasks and predictions, for its present vocabulary and recipe."""

    row: models.Project
    model_version: str
    """The version that /setup returns."""
    tasks: int
    items: dict[ItemState, int]
    predictions: dict[PredictionState, int]
    """Predictions of the present vocabulary and regions, by state."""
    failed: list[Reason]
    """Errors of images, the most frequent first."""
    unsent: list[Reason]
    """Errors of predictions that failed, or that back off."""


@dataclass(frozen=True)
class TaskView:
    """A task as the API shows it."""

    ls_task_id: int
    item_id: int
    uri: str
    state: ItemState
    error_code: str | None
    error_detail: str | None
    result_id: UUID | None
    finished_at: datetime | None
    model_version: str | None
    """Of the newest prediction of the present vocabulary and regions, as the fields below."""
    prediction_state: PredictionState | None
    ls_prediction_id: int | None
    prediction_error_code: str | None
    prediction_error_detail: str | None
    sent_at: datetime | None


_STATES = text("""
    SELECT item.state, count(*) FROM task JOIN item ON item.id = task.item_id WHERE task.job_id = :job GROUP BY 1
""")

_FAILED = text("""
    SELECT coalesce(item.error_code, 'unknown'), count(*),
        coalesce((array_agg(item.error_detail ORDER BY task.ls_task_id))[1], ''), min(task.ls_task_id)
    FROM task JOIN item ON item.id = task.item_id
    WHERE task.job_id = :job AND item.state IN ('failed', 'dead')
    GROUP BY item.error_code ORDER BY count(*) DESC, item.error_code
""")

_PRESENT = f"""
    instance = :instance AND ls_project_id = :project AND right(model_version, 17) = :ends
    AND error_code IS DISTINCT FROM '{SUPERSEDED}'
"""
_PREDICTIONS = text(f"SELECT state, count(*) FROM prediction WHERE {_PRESENT} GROUP BY 1")  # noqa: S608 - constants
_UNSENT = text(f"""
    SELECT error_code, count(*), coalesce((array_agg(error_detail ORDER BY ls_task_id))[1], ''), min(ls_task_id)
    FROM prediction
    WHERE {_PRESENT} AND state IN ('pending', 'failed') AND error_code IS NOT NULL
    GROUP BY error_code ORDER BY count(*) DESC, error_code
""")  # noqa: S608

_PAGE = text(f"""
    SELECT task.ls_task_id, item.id AS item_id, item.uri, item.state, item.error_code, item.error_detail,
        item.result_id, item.finished_at, newest.model_version, newest.state AS prediction_state,
        newest.ls_prediction_id, newest.error_code AS prediction_error_code,
        newest.error_detail AS prediction_error_detail, newest.sent_at
    FROM task JOIN item ON item.id = task.item_id
    LEFT JOIN LATERAL (
        SELECT * FROM prediction WHERE {_PRESENT} AND prediction.ls_task_id = task.ls_task_id ORDER BY id DESC LIMIT 1
    ) AS newest ON true
    WHERE task.job_id = :job AND task.ls_task_id > :after AND (CAST(:state AS text) IS NULL OR item.state = :state)
    ORDER BY task.ls_task_id LIMIT :limit
""")  # noqa: S608


def progress(session: Session, project: models.Project, *, weights: Mapping[str, Any] | None = None) -> ProjectProgress:
    """Count now. The model version is made of `weights`, or of the newest that a worker registered."""
    values = _values(project)
    items = dict.fromkeys(ItemState, 0)
    items |= {ItemState(state): count for state, count in session.execute(_STATES, values)}
    predictions = dict.fromkeys(PredictionState, 0)
    predictions |= {PredictionState(state): count for state, count in session.execute(_PREDICTIONS, values)}
    return ProjectProgress(
        row=project,
        model_version=_model_version(session, project, weights),
        tasks=sum(items.values()),
        items=items,
        predictions=predictions,
        failed=[Reason(*row) for row in session.execute(_FAILED, values)],
        unsent=[Reason(*row) for row in session.execute(_UNSENT, values)],
    )


def tasks_page(
    session: Session, project: models.Project, *, state: ItemState | None, cursor: str | None, limit: int
) -> tuple[list[TaskView], str | None]:
    """Return tasks in the order of their ids, and the cursor of the next page."""
    at = Cursor(f"tasks {project.id} {state}")
    values = {
        "after": at.read_number(cursor) if cursor else -1,
        "state": str(state) if state is not None else None,
        "limit": limit + 1,
    }
    rows = session.execute(_PAGE, _values(project) | values).all()
    tasks = [_task(row) for row in rows[:limit]]
    return tasks, at.write(tasks[-1].ls_task_id) if len(rows) > limit else None


def _model_version(session: Session, project: models.Project, weights: Mapping[str, Any] | None) -> str:
    """Return the version for the recipe of the project's job; empty without a job."""
    job, recipe = models.Job, models.Recipe
    query = select(recipe.document).join(job, job.recipe_id == recipe.id).where(job.id == project.job_id)
    document = session.scalar(query)
    if document is None:
        return ""
    present = Recipe.from_json(document)
    weights = weights or model_registry.weights_for(session, present)
    return label_studio_version(weights, present, project.vocabulary_digest, project.region_digest)


def _values(project: models.Project) -> dict[str, Any]:
    return {
        "instance": project.instance,
        "project": project.ls_project_id,
        "job": project.job_id,
        "ends": f"{project.vocabulary_digest[:8]}.{project.region_digest[:8]}",
    }


def _task(row: Any) -> TaskView:  # noqa: ANN401 - a row of `_PAGE`
    prediction = PredictionState(row.prediction_state) if row.prediction_state is not None else None
    return TaskView(**row._asdict() | {"state": ItemState(row.state), "prediction_state": prediction})
