"""POST /webhook: events of Label Studio.

Label Studio waits one second and never sends an event again, so events are handled after the response. An event that is
lost then (no database, the process ends) is made up for by the next `sync`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from fastapi import APIRouter, BackgroundTasks, Request, Response

from api.label_studio import payloads
from api.label_studio.auth import WebhookAuth
from api.label_studio.context import BackendContext, BackendContextDep
from api.label_studio.predict import notifications_for
from api.label_studio.project import UpsertedProject, loggable, upsert_project
from api.schemas.label_studio import WebhookRequest, WebhookResponse, request_body
from car.errors import CarError
from car.label_studio.task_requests import TaskRequest, has_inline_images, parse_tasks, task_id_of
from db.label_studio import feedback, project_sync, task_deletion, tasks
from db.label_studio.projects import RequestKind
from db.label_studio.tasks import store_vocabularies
from db.session import transaction
from worker.celery_app import TaskName

_WAIT_SECONDS = 60.0
"""For a thread: the response was sent already."""

router = APIRouter()
log = structlog.get_logger("api.label_studio")


@router.post(
    "/webhook",
    status_code=201,
    summary="Receive an event of Label Studio",
    openapi_extra=request_body(WebhookRequest),
    responses={200: {"model": WebhookResponse, "description": "an event that has no effect here"}},
)
async def webhook(
    request: Request, response: Response, backend: BackendContextDep, after: BackgroundTasks, _: WebhookAuth
) -> WebhookResponse:
    """Labels new tasks and compares annotations with our masks. Nothing is trained."""
    body = await request.body()
    document = await backend.run(partial(payloads.read, body), request.receive, size=len(body))
    action = payloads.parse_text(document, "action")
    if action == "START_TRAINING":
        return WebhookResponse(
            status="ok", detail="nothing to train: change the labels and their prompts to change the masks"
        )
    handler = _HANDLERS.get(action)
    if handler is None:
        response.status_code = 200
        return WebhookResponse(status="Unknown event")
    payloads.webhook_project(document)  # refused while Label Studio waits
    after.add_task(_handle, backend, handler, document, len(body))
    return WebhookResponse(status="ok")


@dataclass(frozen=True)
class _TasksWithImages:
    """Created tasks whose images must be put into the bucket first."""

    upserted: UpsertedProject
    tasks: list[Any]


Handler = Callable[[BackendContext, Mapping[str, Any]], set[TaskName] | _TasksWithImages]
"""Handles an event and returns which workers to notify."""


async def _handle(backend: BackendContext, handler: Handler, document: Mapping[str, Any], size: int) -> None:
    run = partial(backend.run, size=size, wait_seconds=_WAIT_SECONDS)
    try:
        notifications = await run(partial(handler, backend, document))
        if isinstance(notifications, _TasksWithImages):
            upserted = notifications.upserted
            requests = await backend.with_images_stored(upserted.project, notifications.tasks)
            notifications = await run(partial(_submit, backend, upserted, requests))
    except CarError as error:
        log.warning("event lost", action=document["action"], code=error.code, reason=loggable(error))
    except Exception:
        log.exception("unexpected error", path="/webhook", action=document["action"])
    else:
        await backend.notifier.notify(notifications)


def _upsert(backend: BackendContext, document: Mapping[str, Any]) -> UpsertedProject:
    project = payloads.webhook_project(document)
    key, config = payloads.webhook_project_key(project), payloads.parse_text(project, "label_config")
    title = project.get("title") if isinstance(project.get("title"), str) else None
    return upsert_project(backend, key, config, kind=RequestKind.WEBHOOK, title=title)


def _project_updated(backend: BackendContext, document: Mapping[str, Any]) -> set[TaskName]:
    _upsert(backend, document)
    return set()


def _tasks_created(backend: BackendContext, document: Mapping[str, Any]) -> set[TaskName] | _TasksWithImages:
    upserted, created = _upsert(backend, document), _list(document, "tasks")
    project = upserted.project
    if has_inline_images(project.config, created):
        return _TasksWithImages(upserted, created)
    requests = parse_tasks(project.config, created, instance=project.row.instance, objects=None)
    return _submit(backend, upserted, requests)


def _submit(
    backend: BackendContext, upserted: UpsertedProject, requests: Sequence[TaskRequest | None]
) -> set[TaskName]:
    project = upserted.project
    try:
        with transaction(backend.database) as session:
            submissions = store_vocabularies(session, (request for request in requests if request is not None))
            statuses = tasks.submit(session, project, submissions, weights=upserted.weights)
    except CarError:
        with transaction(backend.database) as session:
            project_sync.request(session, project.row)
        raise
    return set().union(*map(notifications_for, statuses))


def _delete_tasks(backend: BackendContext, document: Mapping[str, Any]) -> set[TaskName]:
    project = _upsert(backend, document).project
    with transaction(backend.database) as session:
        task_deletion.delete_tasks(session, project.row, _ids(_list(document, "tasks")))
    return set()


def _annotated(backend: BackendContext, document: Mapping[str, Any]) -> set[TaskName]:
    """Store annotations; the event holds one of them or a list."""
    project = _upsert(backend, document).project
    annotations = document.get("annotation")
    with transaction(backend.database) as session:
        for annotation in annotations if isinstance(annotations, list) else [annotations]:
            if not isinstance(annotation, Mapping) or annotation.get("was_cancelled"):
                continue
            annotation_id, task_id = task_id_of(annotation.get("id")), task_id_of(annotation.get("task"))
            result = annotation.get("result")
            if annotation_id is not None and task_id is not None and isinstance(result, list):
                feedback.record(session, project.row, task_id, annotation_id, result)
    return {TaskName.FEEDBACK}


def _annotations_deleted(backend: BackendContext, document: Mapping[str, Any]) -> set[TaskName]:
    project = _upsert(backend, document).project
    with transaction(backend.database) as session:
        feedback.forget(session, project.row, _ids(_list(document, "annotations")))
    return set()


def _list(document: Mapping[str, Any], name: str) -> list[Any]:
    value = document.get(name)
    return value if isinstance(value, list) else []


def _ids(entries: list[Any]) -> list[int]:
    ids = (task_id_of(entry.get("id")) for entry in entries if isinstance(entry, Mapping))
    return [number for number in ids if number is not None]


_HANDLERS: dict[str, Handler] = {
    "PROJECT_UPDATED": _project_updated,
    "TASKS_CREATED": _tasks_created,
    "TASKS_DELETED": _delete_tasks,
    "ANNOTATION_CREATED": _annotated,
    "ANNOTATIONS_CREATED": _annotated,
    "ANNOTATION_UPDATED": _annotated,
    "ANNOTATIONS_DELETED": _annotations_deleted,
}
