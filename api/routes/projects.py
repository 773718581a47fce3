"""/api/v1/label-studio/projects: what Label Studio asked for, and what became of it."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from sqlalchemy.orm import Session

from api.dependencies import ConnectionsDep, CursorParam, Limit, NotifierDep, SessionDep, Text
from api.errors import InstanceUnknownError
from api.label_studio.context import BackendContext, BackendContextDep
from api.label_studio.weights import weights_of
from api.schemas import ErrorView, Page
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
from db.label_studio import feedback as annotators
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
    Query(max_length=2000, description="Label Studio's address, where projects of several have this ls_project_id"),
]


@router.get("", summary="Projects of Label Studio, last connected first")
def page(session: SessionDep, _: Reader, cursor: CursorParam = None, limit: Limit = 50) -> Page[ProjectEntry]:
    found, after = projects.page(session, cursor=cursor, limit=limit)
    return Page(items=[ProjectEntry.model_validate(_entry(row)) for row in found], next=after)


@router.get("/{ls_project_id}", summary="One project, and what became of its tasks")
def get(
    ls_project_id: Number, session: SessionDep, _: Reader, face: BackendContextDep, instance: Instance = None
) -> ProjectView:
    return view(session, face, projects.find(session, ls_project_id, instance))


@router.put("/{ls_project_id}", summary="Tell of a project, as Label Studio has it")
def note(
    ls_project_id: Number,
    request: ProjectRequest,
    session: SessionDep,
    _: Writer,
    engines: ConnectionsDep,
    face: BackendContextDep,
) -> ProjectView:
    """Does what /setup does: words and parameters become a job. Nothing changes where they are known."""
    instance = engines.settings.label_studio_url or (request.instance or "").rstrip("/")
    if not instance:
        raise InstanceUnknownError(
            "LABEL_STUDIO_URL is not set; give `instance`, the address of this project's Label Studio"
        )
    seen = ProjectPayload(
        instance=instance,
        ls_project_id=ls_project_id,
        label_config=request.label_config,
        ls_project_key=request.ls_project_key,
        title=request.title,
        extra_params=request.extra_params,
        kind=RequestKind.SYNC,
    )
    return view(session, face, projects.upsert(session, seen, preset=engines.settings.preset))


@router.get("/{ls_project_id}/tasks", summary="Tasks of a project, and why those failed that did")
def tasks(
    ls_project_id: Number,
    session: SessionDep,
    _: Reader,
    state: ItemState | None = None,
    cursor: CursorParam = None,
    limit: Limit = 50,
    instance: Instance = None,
) -> Page[TaskEntry]:
    known = projects.find(session, ls_project_id, instance)
    found, after = project_queries.tasks_page(session, known.row, state=state, cursor=cursor, limit=limit)
    return Page(items=[_task(one) for one in found], next=after)


@router.get("/{ls_project_id}/feedback", summary="What annotators made of the predictions, by label and prompts")
def feedback(ls_project_id: Number, session: SessionDep, _: Reader, instance: Instance = None) -> Page[LabelFeedback]:
    known = projects.find(session, ls_project_id, instance)
    found = annotators.report(session, known.row)
    return Page(items=[LabelFeedback.model_validate(one) for one in found], next=None)


@router.post("/{ls_project_id}/sync", status_code=202, summary="Look at all tasks of a project")
def sync(
    ls_project_id: Number,
    session: SessionDep,
    _: Writer,
    ring: NotifierDep,
    face: BackendContextDep,
    instance: Instance = None,
) -> ProjectView:
    """A worker asks Label Studio for its tasks; those that are new are queued."""
    known = projects.find(session, ls_project_id, instance)
    project_sync.request(session, known.row)
    ring(TaskName.SYNC)
    session.flush()
    return view(session, face, known)


@router.post("/{ls_project_id}/retry", status_code=202, summary="Try what failed once more")
def retry(
    ls_project_id: Number,
    session: SessionDep,
    _: Writer,
    ring: NotifierDep,
    face: BackendContextDep,
    instance: Instance = None,
) -> ProjectRetried:
    """Failed and dead pictures, and predictions that Label Studio refused."""
    known = projects.find(session, ls_project_id, instance)
    pictures = jobs.retry(session, known.row.job_id) if known.row.job_id is not None else 0
    sent = outbox.retry(session, known.row)
    if pictures:
        ring(TaskName.SEGMENT)
    if sent:
        ring(TaskName.PUBLISH)
    session.flush()
    return ProjectRetried(pictures=pictures, predictions=sent, project=view(session, face, known))


def view(session: Session, face: BackendContext, known: ResolvedProject) -> ProjectView:
    """All about a project, counted now."""
    row, plan = known.row, known.plan
    found = project_queries.progress(session, row, weights=weights_of(session, face, plan.recipe))
    words = plan.vocabulary.labels if plan.vocabulary is not None else None
    return ProjectView.model_validate(
        {
            **_entry(row),
            "ls_project_key": row.ls_project_key,
            "job": row.job_id,
            "model_version": found.model_version,
            "preset": plan.recipe.preset,
            "labels": None
            if words is None
            else [ProjectLabel(name=one.name, prompts=list(one.prompts)) for one in words],
            "extra_params": row.extra_params,
            "tasks": found.tasks,
            "items": found.items,
            "predictions": found.predictions,
            "failed": found.failed,
            "unsent": found.unsent,
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


def _task(found: TaskView) -> TaskEntry:
    return TaskEntry(
        ls_task_id=found.ls_task_id,
        uri=found.uri,
        state=found.state,
        error=_error(found.error_code, found.error_detail),
        result=found.result_id,
        result_url=f"/api/v1/results/{found.result_id}" if found.result_id is not None else None,
        finished_at=found.finished_at,
        model_version=found.model_version,
        prediction=found.prediction_state,
        ls_prediction_id=found.ls_prediction_id,
        prediction_error=_error(found.prediction_error_code, found.prediction_error_detail),
        sent_at=found.sent_at,
    )


def _error(code: str | None, detail: str | None) -> ErrorView | None:
    return None if code is None else ErrorView(code=code, detail=detail)
