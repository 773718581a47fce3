"""POST /predict: what is known of each task at once, and `[]` where it is not known yet.

Label Studio stores nothing for `[]`, shows no error and asks again the next time; a prediction without regions it would
store, and never ask again. So `[]` also stands for a failure, which our own pages explain. Other answers than 200 with
as many slots as tasks it drops without a word to its user, so there are none once its tasks can be counted.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import structlog
from fastapi import APIRouter, BackgroundTasks, Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from api.errors import BodyInvalidError
from api.label_studio import interactive
from api.label_studio import payloads as bodies
from api.label_studio.aside import WORTH_IT, Answered
from api.label_studio.auth import BackendAuth
from api.label_studio.chunked_response import ChunkedResponse
from api.label_studio.context import BackendContext, BackendContextDep
from api.label_studio.project import UpsertedProject, reason, upsert_project
from api.schemas.label_studio import Predictions, PredictRequest, body
from car.errors import CarError
from car.label_studio.task_requests import TaskRequest, has_inline_images, parse_tasks
from db.label_studio import tasks
from db.label_studio.projects import RequestKind
from db.label_studio.tasks import TaskStatus, store_vocabularies
from db.models import ItemState, Priority
from db.session import transaction
from worker.celery_app import TaskName

router = APIRouter()
log = structlog.get_logger("api.label_studio")

NOTHING = b"[]"
_ENDED = (ItemState.FAILED, ItemState.DEAD)


@router.post(
    "/predict",
    summary="What is known of these tasks",
    openapi_extra=body(PredictRequest),
    responses={200: {"model": Predictions}},
    response_class=Response,
)
async def predict(request: Request, face: BackendContextDep, after: BackgroundTasks, _: BackendAuth) -> Response:
    """Queues what is not known and answers at once: as many results as tasks, `[]` for each that is queued or failed.
    Only a prompt from the editor (`params.context`) waits, for PREDICT_WAIT_SECONDS at most and while a worker lives.
    """
    given, answered = await request.body(), None
    if len(given) >= WORTH_IT:
        async with face.beside(request.receive) as aside:
            answered = await aside.predict(given)
    if answered is None:
        answered = await _here(face, given, request.receive)
    face.count(answered.counts)
    if answered.bells:
        after.add_task(face.notifier.notify, answered.bells)
    return ChunkedResponse(answered.parts)


def bulk(face: BackendContext, given: bytes) -> Answered | None:
    """What the process for large bodies answers. None: its owner does, where a worker or S3 is waited for, or a body is
    refused.
    """
    try:
        document = bodies.read(given)
        wanted = _tasks_of(document)
    except BodyInvalidError:
        return None
    if _context(document) is not None:
        return None
    try:
        answered = _ask(face, document, wanted)
    except Exception as error:  # noqa: BLE001 - it is logged
        return _nothing(error, wanted)
    return answered if isinstance(answered, Answered) else None


async def _here(face: BackendContext, given: bytes, receive: Receive) -> Answered:
    document = await face.run(partial(bodies.read, given), receive, size=len(given))
    wanted = _tasks_of(document)
    try:
        if (context := _context(document)) is not None:
            return await _prompted(face, document, wanted, context, receive)
        answered = await face.run(partial(_ask, face, document, wanted), receive, size=len(given))
        if isinstance(answered, Answered):
            return answered
        wishes = await face.with_pictures_stored(answered.known, wanted, receive)
        return await face.run(partial(_submit, face, answered, wishes), receive, size=len(given))
    except ClientDisconnect:
        raise
    except Exception as error:  # noqa: BLE001 - it is logged
        return _nothing(error, wanted)


async def _prompted(
    face: BackendContext,
    document: Mapping[str, Any],
    wanted: Sequence[Any],
    context: Mapping[str, Any],
    receive: Receive,
) -> Answered:
    text = await interactive.answer(face, document, wanted, context, receive)
    rest = [NOTHING] * (len(wanted) - 1)
    if text is None:
        return Answered(_parts([NOTHING, *rest]), Counter({"queued": 1}), {TaskName.SEGMENT})
    return Answered(_parts([text.encode(), *rest]), Counter({"known": 1}))


def _tasks_of(document: Mapping[str, Any]) -> list[Any]:
    wanted = document.get("tasks")
    if not isinstance(wanted, list):
        raise BodyInvalidError('"tasks" must be a list')
    return wanted


def _nothing(error: Exception, wanted: Sequence[Any]) -> Answered:
    """Whatever goes wrong, so many slots."""
    if isinstance(error, CarError):
        log.warning("nothing predicted", code=error.code, reason=reason(error), tasks=len(wanted))
    else:
        log.error("unexpected error", path="/predict", tasks=len(wanted), exc_info=error)
    return Answered(_parts([NOTHING] * len(wanted)), Counter({"failed": len(wanted)}))


def _parts(slots: Iterable[bytes]) -> list[bytes]:
    """The text of an answer with these slots. In parts, for in one it would be megabytes more, made in one go."""
    parts = [b'{"results":[']
    for slot in slots:
        parts += (slot, b",")
    if len(parts) > 1:
        parts.pop()
    return [*parts, b"]}"]


def _context(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    params = document.get("params")
    context = params.get("context") if isinstance(params, Mapping) else None
    return context if isinstance(context, Mapping) else None


def _ask(face: BackendContext, document: Mapping[str, Any], wanted: Sequence[Any]) -> Answered | UpsertedProject:
    """The project alone where pictures are written into tasks: they go to S3 before anything is asked for."""
    if not wanted:
        return Answered(_parts([]))
    stamp, config = bodies.stamp_of(document.get("project")), bodies.text_of(document, "label_config")
    noted = upsert_project(face, stamp, config, way=RequestKind.PREDICT)
    known = noted.known
    if has_inline_images(known.plan, wanted):
        return noted
    return _submit(face, noted, parse_tasks(known.plan, wanted, instance=known.row.instance, objects=None))


def _submit(face: BackendContext, noted: UpsertedProject, wishes: Sequence[TaskRequest | None]) -> Answered:
    # Another transaction: neither the project's row nor a connection is held while pictures go to S3.
    with transaction(face.database) as session:
        answers = tasks.submit(
            session,
            noted.known,
            store_vocabularies(session, (wish for wish in wishes if wish is not None)),
            weights=noted.weights,
            # A lone task is one that a person has just opened.
            priority=Priority.INTERACTIVE if len(wishes) == 1 else Priority.BULK,
            max_document_bytes=face.settings.predict_max_answer,
            missing=True,  # it leaves out tasks that have a prediction of our version
        )
    by_task = {answer.ls_task_id: answer for answer in answers}
    return _told([by_task[wish.ls_task_id] if wish is not None else None for wish in wishes])


def _told(answers: Sequence[TaskStatus | None]) -> Answered:
    """In the order of the tasks."""
    slots: list[bytes] = []
    counts: Counter[str] = Counter()
    bells: set[TaskName] = set()
    for answer in answers:
        counts[_kind(answer)] += 1
        slots.append(answer.document.encode() if answer is not None and answer.document else NOTHING)
        if answer is not None and not answer.document:
            bells |= bells_of(answer)
    return Answered(_parts(slots), counts, bells)


def bells_of(answer: TaskStatus) -> set[TaskName]:
    """Who has work by what was just asked."""
    if answer.state is ItemState.QUEUED:
        return {TaskName.SEGMENT}
    return {TaskName.PUBLISH} if answer.state is ItemState.DONE else set()


def _kind(answer: TaskStatus | None) -> str:
    if answer is None or answer.state in _ENDED:
        return "failed"
    if not answer.document:
        return "queued"
    return "empty" if answer.document[-20:].replace(" ", "").endswith('"result":[]}') else "known"
