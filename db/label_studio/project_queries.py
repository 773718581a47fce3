"""How far a project is, and its tasks page by page."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from car.model_version import label_studio_version
from car.recipe import Recipe
from db import models
from db.label_studio.outbox import SUPERSEDED
from db.models import ItemState, PredictionState
from db.pagination import Cursor
from db.queue import model_registry


@dataclass(frozen=True)
class Reason:
    """Why some tasks have no prediction."""

    code: str
    count: int
    example: str
    """The detail of one of them."""
    ls_task_id: int
    """One of those tasks."""


@dataclass(frozen=True)
class ProjectProgress:
    """A project's tasks and what became of them, as its present vocabulary and recipe go."""

    row: models.Project
    model_version: str
    """As /setup answers it."""
    tasks: int
    items: dict[ItemState, int]
    """Tasks by the state of their picture."""
    predictions: dict[PredictionState, int]
    """Of the present words and regions."""
    failed: list[Reason]
    """Of pictures, the most frequent first."""
    unsent: list[Reason]
    """Of predictions that Label Studio refused, or that wait after an error."""


@dataclass(frozen=True)
class TaskView:
    """A task as its project's owner sees it."""

    ls_task_id: int
    item_id: int
    uri: str
    state: ItemState
    error_code: str | None
    error_detail: str | None
    result_id: UUID | None
    finished_at: datetime | None
    model_version: str | None
    """Of its newest prediction of the present words and regions, as the fields below are."""
    prediction_state: PredictionState | None
    ls_prediction_id: int | None
    prediction_error_code: str | None
    prediction_error_detail: str | None
    sent_at: datetime | None


_STATES = text("""
    SELECT item.state, count(*) FROM task JOIN item ON item.id = task.item_id WHERE task.job_id = :job GROUP BY 1
""")

_FAILED = text("""
    SELECT item.error_code, count(*), (array_agg(item.error_detail ORDER BY task.ls_task_id))[1], min(task.ls_task_id)
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
    SELECT error_code, count(*), (array_agg(error_detail ORDER BY ls_task_id))[1], min(ls_task_id) FROM prediction
    WHERE {_PRESENT} AND state IN ('pending', 'failed') AND error_code IS NOT NULL
    GROUP BY error_code ORDER BY count(*) DESC, error_code
""")  # noqa: S608

_PAGE = text(f"""
    SELECT task.ls_task_id, item.id, item.uri, item.state, item.error_code, item.error_detail, item.result_id,
        item.finished_at, newest.model_version, newest.state AS prediction_state, newest.ls_prediction_id,
        newest.error_code AS prediction_error_code, newest.error_detail AS prediction_error_detail, newest.sent_at
    FROM task JOIN item ON item.id = task.item_id
    LEFT JOIN LATERAL (
        SELECT * FROM prediction WHERE {_PRESENT} AND prediction.ls_task_id = task.ls_task_id ORDER BY id DESC LIMIT 1
    ) AS newest ON true
    WHERE task.job_id = :job AND task.ls_task_id > :after AND (CAST(:state AS text) IS NULL OR item.state = :state)
    ORDER BY task.ls_task_id LIMIT :limit
""")  # noqa: S608


def progress(session: Session, project: models.Project, *, weights: Mapping[str, Any] | None = None) -> ProjectProgress:
    """Counted now. `weights`: those that /setup makes its version of; without, the newest that a worker registered."""
    here = _here(project)
    items = dict.fromkeys(ItemState, 0) | {ItemState(row[0]): row[1] for row in session.execute(_STATES, here)}
    predictions = dict.fromkeys(PredictionState, 0)
    predictions |= {PredictionState(row[0]): row[1] for row in session.execute(_PREDICTIONS, here)}
    return ProjectProgress(
        row=project,
        model_version=_model_version(session, project, weights),
        tasks=sum(items.values()),
        items=items,
        predictions=predictions,
        failed=[_reason(*row) for row in session.execute(_FAILED, here)],
        unsent=[_reason(*row) for row in session.execute(_UNSENT, here)],
    )


def tasks_page(
    session: Session, project: models.Project, *, state: ItemState | None, cursor: str | None, limit: int
) -> tuple[list[TaskView], str | None]:
    """Tasks in the order of their numbers, with the cursor of the next page."""
    at = Cursor(f"tasks {project.id} {state}")
    after = at.read_number(cursor) if cursor else -1
    given = {"after": after, "state": str(state) if state is not None else None, "limit": limit + 1}
    rows = session.execute(_PAGE, _here(project) | given).all()
    shown = [_view(*row) for row in rows[:limit]]
    return shown, at.write(shown[-1].ls_task_id) if len(rows) > limit else None


def _model_version(session: Session, project: models.Project, weights: Mapping[str, Any] | None) -> str:
    """Of the recipe that the project's job has; none yet where it has no job."""
    job, recipe = models.Job, models.Recipe
    row = session.scalars(
        select(recipe).join(job, job.recipe_id == recipe.id).where(job.id == project.job_id)
    ).one_or_none()
    if row is None:
        return ""
    asked = Recipe.from_json(row.document)
    return label_studio_version(
        weights or model_registry.weights_for(session, asked), asked, project.vocabulary_digest, project.region_digest
    )


def _here(project: models.Project) -> dict[str, Any]:
    return {
        "instance": project.instance,
        "project": project.ls_project_id,
        "job": project.job_id,
        "ends": f"{project.vocabulary_digest[:8]}.{project.region_digest[:8]}",
    }


def _reason(code: str | None, count: int, example: str | None, task: int) -> Reason:
    return Reason(code or "unknown", count, example or "", task)


def _view(*columns: Any) -> TaskView:  # noqa: ANN401 - a row of `_PAGE`
    view = TaskView(*columns)
    state = view.prediction_state
    return replace(
        view, state=ItemState(view.state), prediction_state=PredictionState(state) if state is not None else None
    )
