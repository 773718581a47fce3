"""What an annotator asks in the editor: a smart tool or a text prompt about the one task that is open.

It goes ahead of everything queued, and is waited for briefly; nothing of it is written back. Who waits holds no
connection and no thread.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from anyio import create_task_group, sleep

from api import pictures
from api.label_studio import body as bodies
from api.label_studio.face import Face
from api.label_studio.project import note
from car.errors import CarError
from car.project_plan import Prompt, PromptInvalid
from db import result_details, tasks, workers
from db.models import ItemState
from db.pictures import address_of
from db.projects import Known, Way
from db.session import transaction
from db.tasks import Answer
from db.wishes import Wish, asked_of, number_of, wish_of
from worker.queue import Queue, Task

_LOOK_SECONDS = 0.1
_OPEN = (ItemState.QUEUED, ItemState.RUNNING)

log = structlog.get_logger("api.label_studio")


@dataclass(frozen=True)
class _Question:
    item: int
    known: Known
    prompt: Prompt
    version: str
    standing: Answer
    somebody: bool
    """Whether a worker lives that could answer it."""


async def answer(
    face: Face, document: Mapping[str, Any], wanted: Sequence[Any], context: Mapping[str, Any]
) -> str | None:
    """The prediction as JSON text; None where there is none in time.

    Raises:
        PromptInvalid, SourceError, CarError: it cannot be asked, or has failed.

    """
    task = wanted[0] if wanted else None
    if not isinstance(task, Mapping) or number_of(task.get("id")) is None:
        raise PromptInvalid("the prompt is of no task; send one with an id and its data")
    question = await face.work(partial(_asked, face, document, task, context))
    standing = question.standing
    if standing.state in _OPEN and question.somebody:
        standing = await _waited(face, question)
    if standing.state in _OPEN:
        return None
    if standing.result_id is None:
        log.warning("prompt failed", task=standing.task, item=question.item, code=standing.error_code)
        return None
    return await face.work(partial(_rendered, face, question, standing))


def _asked(face: Face, document: Mapping[str, Any], task: Mapping[str, Any], context: Mapping[str, Any]) -> _Question:
    stamp, config = bodies.stamp_of(document.get("project")), bodies.text_of(document, "label_config")
    noted = note(face, stamp, config, way=Way.PREDICT)
    known = noted.known
    data = task.get("data")
    prompt = known.plan.prompt_of(context, data if isinstance(data, Mapping) else {})
    wish = wish_of(known.plan, task, partial(address_of, instance=known.row.instance, objects=face.objects))
    if wish is None or wish.refused is not None:
        raise PromptInvalid(
            wish.refused[1] if wish is not None and wish.refused else "the picture cannot be stored now"
        )
    with transaction(face.database, durable=False) as session:
        wish = Wish(wish.task, wish.uri, prompt.vocabulary or wish.vocabulary)
        item = tasks.ask_alone(session, known, asked_of(session, [wish])[0], weights=noted.weights)
        somebody = any(one.queue == Queue.GPU for one in workers.living(session))
        return _Question(item, known, prompt, noted.version, tasks.standing(session, item), somebody)


async def _waited(face: Face, question: _Question) -> Answer:
    until = time.monotonic() + face.settings.predict_wait_seconds
    standing = question.standing
    async with create_task_group() as group:
        group.start_soon(face.ring, {Task.SEGMENT})  # beside the waiting, for Redis may be away
        while standing.state in _OPEN and time.monotonic() < until:
            await sleep(_LOOK_SECONDS)
            standing = await face.glance(partial(_standing, face, question.item))
        group.cancel_scope.cancel()
    return standing


def _standing(face: Face, item: int) -> Answer:
    with transaction(face.database, durable=False) as session:
        return tasks.standing(session, item)


def _rendered(face: Face, question: _Question, standing: Answer) -> str:
    # With scipy and the SDK: seconds, which the process need not take to start.
    from car.prediction_document import Found, prediction_document  # noqa: PLC0415

    if standing.result_id is None:
        raise CarError("a result is needed")
    with transaction(face.database, durable=False) as session:
        row = result_details.stored(session, standing.result_id).row
    made = prediction_document(
        question.known.row.label_config,
        question.known.plan,
        Found.of_document(json.loads(pictures.own(face.objects, row.masks_key))),
        run_key=row.run_key,
        model_version=question.version,
        only=question.prompt.only,
        within=question.prompt.within,
    )
    return made.text
