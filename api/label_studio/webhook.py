"""POST /webhook: what happened in Label Studio, told as it happens.

Label Studio waits a second and never tells again, so the event is looked at once the answer is sent. What is lost then
(a database that is away, a process that ends) `sync` finds in Label Studio itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from fastapi import APIRouter, BackgroundTasks, Request, Response

from api.label_studio import payloads as bodies
from api.label_studio.auth import WebhookAuth
from api.label_studio.context import BackendContext, BackendContextDep
from api.label_studio.predict import bells_of
from api.label_studio.project import UpsertedProject, reason, upsert_project
from api.schemas.label_studio import WebhookRequest, WebhookResponse, body
from car.errors import CarError
from car.label_studio.task_requests import TaskRequest, has_inline_images, parse_tasks, task_id_of
from db.label_studio import feedback, project_sync, task_deletion, tasks
from db.label_studio.projects import RequestKind
from db.label_studio.tasks import store_vocabularies
from db.session import transaction
from worker.celery_app import TaskName

_WAIT_SECONDS = 60.0
"""For a thread: nobody waits for the answer."""

router = APIRouter()
log = structlog.get_logger("api.label_studio")


@router.post(
    "/webhook",
    status_code=201,
    summary="What happened in Label Studio",
    openapi_extra=body(WebhookRequest),
    responses={200: {"model": WebhookResponse, "description": "an event that means nothing here"}},
)
async def webhook(
    request: Request, response: Response, face: BackendContextDep, after: BackgroundTasks, _: WebhookAuth
) -> WebhookResponse:
    """Tasks that were created are labelled; what people draw is compared with our masks. Nothing is trained."""
    given = await request.body()
    document = await face.run(partial(bodies.read, given), request.receive, size=len(given))
    action = bodies.text_of(document, "action")
    if action == "START_TRAINING":
        return WebhookResponse(
            status="ok", detail="nothing to train: the labels and their prompts are all it learns from"
        )
    event = _EVENTS.get(action)
    if event is None:
        response.status_code = 200
        return WebhookResponse(status="Unknown event")
    bodies.project_of(document)  # refused while somebody hears it
    after.add_task(_look, face, event, document, len(given))
    return WebhookResponse(status="ok")


Event = Callable[[BackendContext, Mapping[str, Any]], "set[TaskName] | _Created"]
"""Returns whom to notify, or tasks whose pictures go to S3 first."""


@dataclass(frozen=True)
class _Created:
    noted: UpsertedProject
    tasks: list[Any]


async def _look(face: BackendContext, event: Event, document: Mapping[str, Any], size: int) -> None:
    work = partial(face.run, size=size, wait_seconds=_WAIT_SECONDS)
    try:
        bells = await work(partial(event, face, document))
        if isinstance(bells, _Created):
            wishes = await face.with_pictures_stored(bells.noted.known, bells.tasks)
            bells = await work(partial(_submitted, face, bells.noted, wishes))
    except CarError as error:
        log.warning("event lost", action=document["action"], code=error.code, reason=reason(error))
    except Exception:
        log.exception("unexpected error", path="/webhook", action=document["action"])
    else:
        await face.notifier.notify(bells)


def _noted(face: BackendContext, document: Mapping[str, Any]) -> UpsertedProject:
    """The project as it is now."""
    project = bodies.project_of(document)
    stamp, config = bodies.stamp_of_project(project), bodies.text_of(project, "label_config")
    title = project.get("title")
    return upsert_project(face, stamp, config, way=RequestKind.WEBHOOK, title=title if isinstance(title, str) else None)


def _project_updated(face: BackendContext, document: Mapping[str, Any]) -> set[TaskName]:
    _noted(face, document)
    return set()


def _tasks_created(face: BackendContext, document: Mapping[str, Any]) -> set[TaskName] | _Created:
    noted, created = _noted(face, document), _list(document, "tasks")
    known = noted.known
    if has_inline_images(known.plan, created):
        return _Created(noted, created)
    return _submitted(face, noted, parse_tasks(known.plan, created, instance=known.row.instance, objects=None))


def _submitted(face: BackendContext, noted: UpsertedProject, wishes: Sequence[TaskRequest | None]) -> set[TaskName]:
    known = noted.known
    try:
        with transaction(face.database) as session:
            asked = store_vocabularies(session, (wish for wish in wishes if wish is not None))
            answers = tasks.submit(session, known, asked, weights=noted.weights)
    except CarError:
        with transaction(face.database) as session:
            project_sync.request(session, known.row)
        raise
    return {bell for answer in answers for bell in bells_of(answer)}


def _tasks_deleted(face: BackendContext, document: Mapping[str, Any]) -> set[TaskName]:
    known = _noted(face, document).known
    gone = _numbers(_list(document, "tasks"))
    with transaction(face.database) as session:
        task_deletion.tasks_deleted(session, known.row, gone)
    return set()


def _annotated(face: BackendContext, document: Mapping[str, Any]) -> set[TaskName]:
    """One annotation, or many under the same name."""
    known = _noted(face, document).known
    told = document.get("annotation")
    with transaction(face.database) as session:
        for one in told if isinstance(told, list) else [told]:
            if not isinstance(one, Mapping) or one.get("was_cancelled"):
                continue
            number, task, result = task_id_of(one.get("id")), task_id_of(one.get("task")), one.get("result")
            if number is not None and task is not None and isinstance(result, list):
                feedback.record(session, known.row, task, number, result)
    return {TaskName.FEEDBACK}


def _annotations_deleted(face: BackendContext, document: Mapping[str, Any]) -> set[TaskName]:
    known = _noted(face, document).known
    with transaction(face.database) as session:
        feedback.forget(session, known.row, _numbers(_list(document, "annotations")))
    return set()


def _list(document: Mapping[str, Any], name: str) -> list[Any]:
    value = document.get(name)
    return value if isinstance(value, list) else []


def _numbers(entries: list[Any]) -> list[int]:
    found = [task_id_of(one.get("id")) for one in entries if isinstance(one, Mapping)]
    return [one for one in found if one is not None]


_EVENTS: dict[str, Event] = {
    "PROJECT_UPDATED": _project_updated,
    "TASKS_CREATED": _tasks_created,
    "TASKS_DELETED": _tasks_deleted,
    "ANNOTATION_CREATED": _annotated,
    "ANNOTATIONS_CREATED": _annotated,
    "ANNOTATION_UPDATED": _annotated,
    "ANNOTATIONS_DELETED": _annotations_deleted,
}
