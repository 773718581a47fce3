"""What an annotator asks in the editor: a smart tool or a text prompt about the one task that is open.

It goes ahead of everything queued, and is waited for briefly; nothing of it is written back. Who waits holds no
connection and no thread.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import structlog
from anyio import create_task_group, sleep
from starlette.types import Receive

from api import rendering
from api.label_studio import payloads as bodies
from api.label_studio.context import BackendContext
from api.label_studio.project import UpsertedProject, upsert_project
from car.label_studio.image_urls import resolve_url
from car.label_studio.project_config import Prompt, PromptInvalidError
from car.label_studio.task_requests import TaskRequest, has_inline_images, parse_task, task_id_of
from db.label_studio import tasks
from db.label_studio.projects import RequestKind, ResolvedProject
from db.label_studio.tasks import TaskStatus, store_vocabularies
from db.models import ItemState, Result
from db.queue import workers
from db.results import details as result_details
from db.session import transaction
from worker.celery_app import Queue, TaskName

_LOOK_SECONDS = 0.1
_OPEN = (ItemState.QUEUED, ItemState.RUNNING)

log = structlog.get_logger("api.label_studio")


@dataclass(frozen=True)
class _Prompted:
    """What is asked, before it is known whether the task's picture can be."""

    noted: UpsertedProject
    prompt: Prompt


@dataclass(frozen=True)
class _Question:
    item: int
    known: ResolvedProject
    prompt: Prompt
    version: str
    standing: TaskStatus
    somebody: bool
    """Whether a worker lives that could answer it."""


async def answer(
    face: BackendContext,
    document: Mapping[str, Any],
    wanted: Sequence[Any],
    context: Mapping[str, Any],
    receive: Receive,
) -> str | None:
    """The prediction as JSON text; None where there is none in time. S3 is asked for the picture within a task and for
    masks, each time on a thread for that alone.

    Raises:
        PromptInvalid, SourceError, CarError: it cannot be asked, or has failed.

    """
    task = wanted[0] if wanted else None
    if not isinstance(task, Mapping) or task_id_of(task.get("id")) is None:
        raise PromptInvalidError("the prompt is of no task; send one with an id and its data")
    prompted = await face.run(partial(_noted, face, document, task, context), receive)
    if has_inline_images(prompted.noted.known.plan, [task]):
        [wish] = await face.with_pictures_stored(prompted.noted.known, [task], receive)
    else:
        known = prompted.noted.known
        wish = parse_task(known.plan, task, partial(resolve_url, instance=known.row.instance, objects=None))
    question = await face.run(partial(_asked, face, prompted, wish), receive)
    standing = question.standing
    if standing.state in _OPEN and question.somebody:
        standing = await _waited(face, question)
    if standing.state in _OPEN:
        return None
    if standing.result_id is None:
        log.warning("prompt failed", task=standing.ls_task_id, item=question.item, code=standing.error_code)
        return None
    row = await face.run_probe(partial(_result, face, standing.result_id), receive)
    masks = await face.from_store(partial(rendering.own, face.objects, row.masks_key), receive)
    return await face.run(partial(_rendered, question, row, masks), receive)


def _noted(
    face: BackendContext, document: Mapping[str, Any], task: Mapping[str, Any], context: Mapping[str, Any]
) -> _Prompted:
    stamp, config = bodies.stamp_of(document.get("project")), bodies.text_of(document, "label_config")
    noted = upsert_project(face, stamp, config, way=RequestKind.PREDICT)
    data = task.get("data")
    return _Prompted(noted, noted.known.plan.prompt_of(context, data if isinstance(data, Mapping) else {}))


def _asked(face: BackendContext, prompted: _Prompted, wish: TaskRequest | None) -> _Question:
    noted, prompt = prompted.noted, prompted.prompt
    known = noted.known
    if wish is None or wish.refused is not None:
        raise PromptInvalidError(
            wish.refused[1] if wish is not None and wish.refused else "the picture cannot be stored now"
        )
    with transaction(face.database, durable=False) as session:
        wish = TaskRequest(wish.ls_task_id, wish.uri, prompt.vocabulary or wish.vocabulary)
        item = tasks.submit_interactive(session, known, store_vocabularies(session, [wish])[0], weights=noted.weights)
        somebody = any(one.queue == Queue.GPU for one in workers.list_alive(session))
        return _Question(item, known, prompt, noted.version, tasks.status_of(session, item), somebody)


async def _waited(face: BackendContext, question: _Question) -> TaskStatus:
    until = time.monotonic() + face.settings.predict_wait_seconds
    standing = question.standing
    async with create_task_group() as group:
        group.start_soon(face.notifier.notify, {TaskName.SEGMENT})  # beside the waiting, for Redis may be away
        while standing.state in _OPEN and time.monotonic() < until:
            await sleep(_LOOK_SECONDS)
            standing = await face.run_probe(partial(_standing, face, question.item))
        group.cancel_scope.cancel()
    return standing


def _standing(face: BackendContext, item: int) -> TaskStatus:
    with transaction(face.database, durable=False) as session:
        return tasks.status_of(session, item)


def _result(face: BackendContext, result_id: UUID) -> Result:
    with transaction(face.database, durable=False) as session:
        return result_details.stored(session, result_id).row


def _rendered(question: _Question, row: Result, masks: bytes) -> str:
    # With scipy and the SDK: seconds, which the process need not take to start.
    from car.label_studio.prediction_rendering import render_prediction  # noqa: PLC0415

    made = render_prediction(
        masks,
        question.known.row.label_config,
        question.known.plan,
        run_key=row.run_key,
        model_version=question.version,
        only=question.prompt.labels,
        within=question.prompt.spatial,
    )
    return made.text
