"""/api/v1/label-studio/projects: connected projects, their tasks, syncs and feedback."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from sqlalchemy.orm import Session

from api.dependencies import ConnectionsDep, CursorParam, Limit, NotifyDep, SessionDep
from api.errors import RequestInvalidError
from api.label_studio.context import BackendContext, BackendContextDep
from api.label_studio.project import expected_weights
from api.schemas.common import Page, Text
from api.schemas.jobs import error_view
from api.schemas.projects import (
    LabelFeedback,
    ProjectEntry,
    ProjectLabel,
    ProjectRequest,
    ProjectRetried,
    ProjectView,
    SyncView,
    TaskEntry,
)
from api.security import Reader, Writer
from car.bulk_source import sent_address
from car.model_cards import vocabulary_warnings
from db import model_registry
from db.label_studio import feedback as annotations
from db.label_studio import outbox, project_queries, project_sync, projects
from db.label_studio.project_queries import TaskView
from db.label_studio.projects import ProjectPayload, RequestKind, ResolvedProject
from db.models import ItemState, Project
from db.queue import jobs
from worker.celery_app import TaskName

router = APIRouter(prefix="/label-studio/projects", tags=["Label Studio"])

Number = Annotated[int, Path(ge=1, le=2**31 - 1, description="Label Studio's id of the project")]
Instance = Annotated[
    Text | None,
    Query(max_length=2000, description="URL of the Label Studio, if several have a project with this id"),
]


@router.get("", summary="Projects of Label Studio, last connected first")
def page(session: SessionDep, _: Reader, cursor: CursorParam = None, limit: Limit = 50) -> Page[ProjectEntry]:
    rows, after = projects.page(session, cursor=cursor, limit=limit)
    return Page(items=[ProjectEntry.model_validate(_entry(row)) for row in rows], next=after)


def _find(ls_project_id: Number, session: SessionDep, instance: Instance = None) -> ResolvedProject:
    return projects.find(session, ls_project_id, instance)


ProjectDep = Annotated[ResolvedProject, Depends(_find)]
"""After the key's dependency, so that strangers learn nothing about projects."""


@router.get("/{ls_project_id}", summary="One project with the states of its tasks")
def get(session: SessionDep, _: Reader, project: ProjectDep, backend: BackendContextDep) -> ProjectView:
    return view(session, backend, project)


@router.put("/{ls_project_id}", summary="Store a project as it is in Label Studio")
def upsert(
    ls_project_id: Number,
    request: ProjectRequest,
    session: SessionDep,
    _: Writer,
    connections: ConnectionsDep,
    backend: BackendContextDep,
) -> ProjectView:
    """Does what /setup does: the labels and parameters become a job, unless it exists."""
    instance = connections.settings.label_studio_url or (request.instance or "").rstrip("/")
    if not instance:
        raise RequestInvalidError("LABEL_STUDIO_URL is not set; give `instance`, the URL of the project's Label Studio")
    payload = ProjectPayload(
        instance=instance,
        ls_project_id=ls_project_id,
        label_config=request.label_config,
        ls_project_key=request.ls_project_key,
        title=request.title,
        extra_params=request.extra_params,
        kind=RequestKind.SYNC,
    )
    return view(session, backend, projects.upsert(session, payload, preset=connections.settings.preset))


@router.get("/{ls_project_id}/tasks", summary="Tasks of a project with their states and errors")
def tasks(
    session: SessionDep,
    _: Reader,
    project: ProjectDep,
    state: ItemState | None = None,
    cursor: CursorParam = None,
    limit: Limit = 50,
) -> Page[TaskEntry]:
    entries, after = project_queries.tasks_page(session, project.row, state=state, cursor=cursor, limit=limit)
    return Page(items=[_task(task) for task in entries], next=after)


@router.get("/{ls_project_id}/feedback", summary="Agreement of annotations with predictions, by label and prompts")
def feedback(session: SessionDep, _: Reader, project: ProjectDep) -> Page[LabelFeedback]:
    report = annotations.report(session, project.row)
    return Page(items=[LabelFeedback.model_validate(entry) for entry in report], next=None)


@router.post("/{ls_project_id}/sync", status_code=202, summary="Sync a project: read all its tasks from Label Studio")
def sync(
    session: SessionDep, _: Writer, project: ProjectDep, notify: NotifyDep, backend: BackendContextDep
) -> ProjectView:
    """A worker reads the tasks and queues new ones."""
    project_sync.request(session, project.row)
    notify(TaskName.SYNC)
    session.flush()
    return view(session, backend, project)


@router.post("/{ls_project_id}/retry", status_code=202, summary="Retry what failed")
def retry(
    session: SessionDep, _: Writer, project: ProjectDep, notify: NotifyDep, backend: BackendContextDep
) -> ProjectRetried:
    """Queues failed and dead images again, and predictions that Label Studio refused."""
    images = jobs.retry(session, project.row.job_id) if project.row.job_id is not None else 0
    predictions = outbox.retry(session, project.row)
    if images:
        notify(TaskName.SEGMENT)
    if predictions:
        notify(TaskName.PUBLISH)
    session.flush()
    return ProjectRetried(images=images, predictions=predictions, project=view(session, backend, project))


def view(session: Session, backend: BackendContext, project: ResolvedProject) -> ProjectView:
    """Return a project with its counts of now."""
    row, config = project.row, project.config
    weights = expected_weights(session, backend, config.recipe)
    progress = project_queries.progress(session, row, weights=weights)
    labels, warnings = None, []
    if config.vocabulary is not None:
        cards = model_registry.cards_of(session, weights or {}).values()
        warnings = vocabulary_warnings(cards, config.vocabulary)
        labels = [ProjectLabel(name=label.name, prompts=list(label.prompts)) for label in config.vocabulary.labels]
    counts = ("model_version", "tasks", "items", "predictions", "failed", "unsent")
    return ProjectView.model_validate(
        {
            **_entry(row),
            **{name: getattr(progress, name) for name in counts},
            "ls_project_key": row.ls_project_key,
            "job": row.job_id,
            "preset": config.recipe.preset,
            "labels": labels,
            "warnings": warnings,
            "extra_params": row.extra_params,
        }
    )


def _entry(row: Project) -> dict[str, Any]:
    sync = SyncView(
        wanted_at=row.sync_wanted_at,
        seen=row.sync_seen,
        total=row.sync_total,
        failure_count=row.failure_count,
        error=row.sync_error,
        synced_at=row.synced_at,
    )
    names = ("ls_project_id", "instance", "title", "problems", "setup_at", "predict_at", "webhook_at", "created_at")
    return {name: getattr(row, name) for name in names} | {"sync": sync}


def _task(task: TaskView) -> TaskEntry:
    return TaskEntry(
        ls_task_id=task.ls_task_id,
        uri=sent_address(task.uri),
        state=task.state,
        error=error_view(task.error_code, task.error_detail),
        result=task.result_id,
        result_url=f"/api/v1/results/{task.result_id}" if task.result_id is not None else None,
        finished_at=task.finished_at,
        model_version=task.model_version,
        prediction=task.prediction_state,
        ls_prediction_id=task.ls_prediction_id,
        prediction_error=error_view(task.prediction_error_code, task.prediction_error_detail),
        sent_at=task.sent_at,
    )
