"""Smart tools and text prompts: what an annotator asks about the one task that is open in the editor.

Its item has the highest priority, the request waits for it briefly, and its prediction is not written back. A waiting
request holds no connection and no thread.
"""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID

import structlog
from anyio import create_task_group, sleep
from starlette.types import Receive

from api import rendering
from api.label_studio import payloads
from api.label_studio.context import BackendContext
from api.label_studio.project import UpsertedProject, upsert_project
from car.label_studio.image_urls import resolve_url
from car.label_studio.project_config import Prompt, PromptInvalidError
from car.label_studio.task_requests import TaskRequest, has_inline_images, parse_task, task_id_of
from db.label_studio import tasks as task_rows
from db.label_studio.projects import RequestKind
from db.label_studio.tasks import TaskStatus, store_vocabularies
from db.models import ItemState, Result
from db.queue import workers
from db.results import details as result_details
from db.session import transaction
from worker.celery_app import Queue, TaskName

_POLL_SECONDS = 0.1
_OPEN = (ItemState.QUEUED, ItemState.RUNNING)

log = structlog.get_logger("api.label_studio")


async def predict(
    backend: BackendContext,
    document: Mapping[str, Any],
    tasks: Sequence[Any],
    context: Mapping[str, Any],
    receive: Receive,
) -> str | None:
    """Return the prediction as JSON text; None if there is none in time. An image embedded in the task goes to S3 and
    masks are read from there, each on a thread for S3.

    Raises:
        PromptInvalidError, SourceError, CarError: the prompt or the task is not valid, or a service failed.

    """
    task = tasks[0] if tasks else None
    if not isinstance(task, Mapping) or task_id_of(task.get("id")) is None:
        raise PromptInvalidError("the prompt belongs to no task; send one with an id and its data")
    upserted, prompt = await backend.run(partial(_read_question, backend, document, task, context), receive)
    project = upserted.project
    if has_inline_images(project.config, [task]):
        [request] = await backend.with_images_stored(project, [task], receive)
    else:
        request = parse_task(project.config, task, partial(resolve_url, instance=project.row.instance, objects=None))
    item_id, status, has_worker = await backend.run(partial(_submit, backend, upserted, prompt, request), receive)
    if status.state in _OPEN and has_worker:
        status = await _wait(backend, item_id, status)
    if status.state in _OPEN:
        return None
    if status.result_id is None:
        log.warning("prompt failed", task=status.ls_task_id, item=item_id, code=status.error_code)
        return None
    row = await backend.probe_limit.run(partial(_load_result, backend, status.result_id), receive)
    masks = await backend.store_limit.fetch(partial(rendering.own, backend.objects, row.masks_key), receive)
    return await backend.run(partial(_render, upserted, prompt, row, masks), receive)


def _read_question(
    backend: BackendContext, document: Mapping[str, Any], task: Mapping[str, Any], context: Mapping[str, Any]
) -> tuple[UpsertedProject, Prompt]:
    key, config = payloads.parse_project_key(document.get("project")), payloads.parse_text(document, "label_config")
    upserted = upsert_project(backend, key, config, kind=RequestKind.PREDICT)
    data = task.get("data")
    return upserted, upserted.project.config.prompt_of(context, data if isinstance(data, Mapping) else {})


def _submit(
    backend: BackendContext, upserted: UpsertedProject, prompt: Prompt, request: TaskRequest | None
) -> tuple[int, TaskStatus, bool]:
    """Return the item's id, its status, and whether a worker is alive that could compute it."""
    if request is None or request.refused is not None:
        raise PromptInvalidError(
            request.refused[1] if request is not None and request.refused else "the image cannot be stored now"
        )
    request = TaskRequest(request.ls_task_id, request.uri, prompt.vocabulary or request.vocabulary)
    with transaction(backend.database, durable=False) as session:
        [submission] = store_vocabularies(session, [request])
        item_id = task_rows.submit_interactive(session, upserted.project, submission, weights=upserted.weights)
        has_worker = any(worker.queue == Queue.GPU for worker in workers.list_alive(session))
        return item_id, task_rows.status_of(session, item_id), has_worker


async def _wait(backend: BackendContext, item_id: int, status: TaskStatus) -> TaskStatus:
    until = time.monotonic() + backend.settings.predict_wait_seconds
    async with create_task_group() as group:
        group.start_soon(backend.notifier.notify, {TaskName.SEGMENT})  # concurrently: Redis may be slow
        while status.state in _OPEN and time.monotonic() < until:
            await sleep(_POLL_SECONDS)
            status = await backend.probe_limit.run(partial(_load_status, backend, item_id))
        group.cancel_scope.cancel()
    return status


def _load_status(backend: BackendContext, item_id: int) -> TaskStatus:
    with transaction(backend.database, durable=False) as session:
        return task_rows.status_of(session, item_id)


def _load_result(backend: BackendContext, result_id: UUID) -> Result:
    with transaction(backend.database, durable=False) as session:
        return result_details.stored(session, result_id).row


def _render(upserted: UpsertedProject, prompt: Prompt, row: Result, masks: bytes) -> str:
    # Imports scipy and the SDK, which takes seconds: not when the process starts.
    from car.label_studio.prediction import render_prediction  # noqa: PLC0415

    project = upserted.project
    prediction = render_prediction(
        masks,
        project.row.label_config,
        project.config,
        run_key=row.run_key,
        model_version=upserted.version,
        only=prompt.labels,
        within=prompt.spatial,
    )
    return prediction.text
