"""/api/v1/label-studio/projects: what Label Studio asked for, and what became of it."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from sqlalchemy.orm import Session

from api.dependencies import CursorParam, DoorbellDep, EnginesDep, Limit, SessionDep, Text
from api.errors import InstanceUnknown
from api.schemas import ErrorView, Page
from api.schemas.projects import (
    LabelFeedback,
    ProblemOfProject,
    ProjectEntry,
    ProjectLabel,
    ProjectRequest,
    ProjectRetried,
    ProjectView,
    SyncView,
    TaskEntry,
)
from api.security import Reader, Writer
from db import feedback as annotators
from db import projects
from db.models import ItemState, Project
from db.projects import Known, Seen, TaskView, Way
from worker.queue import Task

router = APIRouter(prefix="/label-studio/projects", tags=["Label Studio"])

Number = Annotated[int, Path(ge=1, le=2**31 - 1, description="Label Studio's id of the project")]
Instance = Annotated[
    Text | None,
    Query(max_length=2000, description="Label Studio's address, where projects of several have this number"),
]


@router.get("", summary="Projects of Label Studio, last connected first")
def page(
    session: SessionDep, _: Reader, cursor: CursorParam = None, limit: Limit = 50, instance: Instance = None
) -> Page[ProjectEntry]:
    found, after = projects.page(session, cursor=cursor, limit=limit, instance=instance)
    return Page(items=[ProjectEntry.model_validate(_entry(row)) for row in found], next=after)


@router.get("/{number}", summary="One project, and what became of its tasks")
def get(number: Number, session: SessionDep, _: Reader, instance: Instance = None) -> ProjectView:
    return view(session, projects.find(session, number, instance))


@router.put("/{number}", summary="Tell of a project, as Label Studio has it")
def note(number: Number, request: ProjectRequest, session: SessionDep, _: Writer, engines: EnginesDep) -> ProjectView:
    """Does what /setup does: the words and parameters of the project become a job. Nothing changes where they are known."""
    instance = engines.settings.label_studio_url or (request.instance or "").rstrip("/")
    if not instance:
        raise InstanceUnknown("LABEL_STUDIO_URL is not set; give `instance`, the address of this project's Label Studio")
    seen = Seen(
        instance=instance,
        number=number,
        label_config=request.label_config,
        stamp=request.stamp,
        title=request.title,
        extra_params=request.extra_params,
        way=Way.SYNC,
    )
    return view(session, projects.note(session, seen, preset=engines.settings.preset))


@router.get("/{number}/tasks", summary="Tasks of a project, and why those failed that did")
def tasks(
    number: Number,
    session: SessionDep,
    _: Reader,
    state: ItemState | None = None,
    cursor: CursorParam = None,
    limit: Limit = 50,
    instance: Instance = None,
) -> Page[TaskEntry]:
    known = projects.find(session, number, instance)
    found, after = projects.tasks_page(session, known.row, state=state, cursor=cursor, limit=limit)
    return Page(items=[_task(one) for one in found], next=after)


@router.get("/{number}/feedback", summary="What annotators made of the predictions, by label and prompts")
def feedback(number: Number, session: SessionDep, _: Reader, instance: Instance = None) -> Page[LabelFeedback]:
    known = projects.find(session, number, instance)
    found = annotators.by_label(session, known.row)
    return Page(items=[LabelFeedback.model_validate(one) for one in found], next=None)


@router.post("/{number}/sync", status_code=202, summary="Look at all tasks of a project")
def sync(
    number: Number, session: SessionDep, _: Writer, ring: DoorbellDep, instance: Instance = None
) -> ProjectView:
    """A worker asks Label Studio for its tasks; those that are new are queued."""
    known = projects.find(session, number, instance)
    projects.want_sync(session, known.row)
    ring(Task.SYNC)
    session.flush()
    return view(session, known)


@router.post("/{number}/retry", status_code=202, summary="Try what failed once more")
def retry(
    number: Number, session: SessionDep, _: Writer, ring: DoorbellDep, instance: Instance = None
) -> ProjectRetried:
    """Failed and dead pictures, and predictions that could not be sent or whose task was away."""
    known = projects.find(session, number, instance)
    pictures, sent = projects.retry(session, known.row)
    if pictures:
        ring(Task.SEGMENT)
    if sent:
        ring(Task.PUBLISH)
    session.flush()
    return ProjectRetried(pictures=pictures, predictions=sent, project=view(session, known))
