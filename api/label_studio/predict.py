"""POST /predict: the predictions of these tasks, and `[]` for each task that has none yet.

Label Studio stores nothing for `[]`, shows no error and asks again the next time; a prediction without regions it would
store, and never ask again. So `[]` also stands for a failure, which our own pages explain. It ignores any response but
200 with one result per task, without a message to its user; so there is no other once the tasks can be counted.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog
from fastapi import APIRouter, BackgroundTasks, Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from api.errors import RequestInvalidError
from api.label_studio import interactive, payloads
from api.label_studio.auth import BackendAuth
from api.label_studio.chunked_response import ChunkedResponse
from api.label_studio.context import BackendContext, BackendContextDep
from api.label_studio.project import UpsertedProject, loggable, upsert_project
from api.schemas.label_studio import Predictions, PredictRequest, request_body
from car.errors import CarError
from car.label_studio.task_requests import TaskRequest, has_inline_images, parse_tasks
from db.label_studio import tasks as task_rows
from db.label_studio.projects import RequestKind
from db.label_studio.tasks import TaskStatus, store_vocabularies
from db.models import ItemState, Priority
from db.session import transaction
from worker.celery_app import TaskName

router = APIRouter()
log = structlog.get_logger("api.label_studio")

_NOTHING = b"[]"
_ENDED = (ItemState.FAILED, ItemState.DEAD)


@dataclass(frozen=True)
class _Answer:
    results: Sequence[bytes]
    """JSON texts in the order of the tasks."""
    counts: Counter[str]
    """Results by the metric's label."""
    notifications: set[TaskName] = field(default_factory=set)


@router.post(
    "/predict",
    summary="Predictions of these tasks",
    openapi_extra=request_body(PredictRequest),
    responses={200: {"model": Predictions}},
    response_class=Response,
)
async def predict(request: Request, backend: BackendContextDep, after: BackgroundTasks, _: BackendAuth) -> Response:
    """Queues unknown tasks and responds at once with one result per task, `[]` if it is queued or failed. Only a prompt
    from the editor (`params.context`) waits, for at most PREDICT_WAIT_SECONDS and while a worker is alive.
    """
    body = await request.body()
    document = await backend.run(partial(payloads.read, body), request.receive, size=len(body))
    tasks = document.get("tasks")
    if not isinstance(tasks, list):
        raise RequestInvalidError('"tasks" must be a list')
    answer = _Answer([_NOTHING] * len(tasks), Counter({"failed": len(tasks)}))
    try:
        answer = await _answer(backend, document, tasks, len(body), request.receive)
    except ClientDisconnect:
        raise
    except CarError as error:
        log.warning("nothing predicted", code=error.code, reason=loggable(error), tasks=len(tasks))
    except Exception:
        log.exception("unexpected error", path="/predict", tasks=len(tasks))
    for outcome, count in answer.counts.items():
        backend.predicted.labels(outcome).inc(count)
    if answer.notifications:
        after.add_task(backend.notifier.notify, answer.notifications)
    return ChunkedResponse(_parts(answer.results))


async def _answer(
    backend: BackendContext, document: Mapping[str, Any], tasks: Sequence[Any], size: int, receive: Receive
) -> _Answer:
    params = document.get("params")
    context = params.get("context") if isinstance(params, Mapping) else None
    if isinstance(context, Mapping):
        text = await interactive.predict(backend, document, tasks, context, receive)
        others = [_NOTHING] * (len(tasks) - 1)
        if text is None:
            return _Answer([_NOTHING, *others], Counter({"queued": 1}), {TaskName.SEGMENT})
        return _Answer([text.encode(), *others], Counter({"known": 1}))
    if not tasks:
        return _Answer([], Counter())
    answer = await backend.run(partial(_submit_document, backend, document, tasks), receive, size=size)
    if isinstance(answer, _Answer):
        return answer
    requests = await backend.with_images_stored(answer.project, tasks, receive)
    return await backend.run(partial(_submit, backend, answer, requests), receive, size=size)


def _submit_document(
    backend: BackendContext, document: Mapping[str, Any], tasks: Sequence[Any]
) -> _Answer | UpsertedProject:
    """Submit the tasks; return only the project if images embedded in them must be put into the bucket first."""
    key, config = payloads.parse_project_key(document.get("project")), payloads.parse_text(document, "label_config")
    upserted = upsert_project(backend, key, config, kind=RequestKind.PREDICT)
    project = upserted.project
    if has_inline_images(project.config, tasks):
        return upserted
    return _submit(backend, upserted, parse_tasks(project.config, tasks, instance=project.row.instance, objects=None))


def _submit(backend: BackendContext, upserted: UpsertedProject, requests: Sequence[TaskRequest | None]) -> _Answer:
    # A transaction of its own: neither the project's row nor a connection is held while images go to S3.
    with transaction(backend.database) as session:
        statuses = task_rows.submit(
            session,
            upserted.project,
            store_vocabularies(session, (request for request in requests if request is not None)),
            weights=upserted.weights,
            # A single task is one that an annotator has just opened.
            priority=Priority.INTERACTIVE if len(requests) == 1 else Priority.BULK,
            max_document_bytes=backend.settings.predict_max_answer,
            missing=True,  # Label Studio leaves out tasks that have a prediction of our version
        )
    by_task = {status.ls_task_id: status for status in statuses}
    ordered = [by_task[request.ls_task_id] if request is not None else None for request in requests]
    return _Answer(
        [status.document.encode() if status is not None and status.document else _NOTHING for status in ordered],
        Counter(map(_outcome, ordered)),
        set().union(*(notifications_for(status) for status in ordered if status is not None and not status.document)),
    )


def notifications_for(status: TaskStatus) -> set[TaskName]:
    """Return which workers have work with a task that was just submitted."""
    if status.state is ItemState.QUEUED:
        return {TaskName.SEGMENT}
    return {TaskName.PUBLISH} if status.state is ItemState.DONE else set()


def _outcome(status: TaskStatus | None) -> str:
    if status is None or status.state in _ENDED:
        return "failed"
    if not status.document:
        return "queued"
    return "empty" if status.document[-20:].replace(" ", "").endswith('"result":[]}') else "known"


def _parts(results: Iterable[bytes]) -> list[bytes]:
    """Return the response in parts: joined at once it would take megabytes more, and block other requests."""
    parts = [b'{"results":[']
    for result in results:
        parts += (result, b",")
    if len(parts) > 1:
        parts.pop()
    return [*parts, b"]}"]
