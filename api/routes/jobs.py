"""/api/v1/jobs: wishes, and what became of them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Request, Response
from sqlalchemy.orm import Session

from api import sources
from api.dependencies import Connections, ConnectionsDep, CursorParam, Limit, NotifierDep, SessionDep, Text
from api.routes.vocabularies import find, vocabulary_of
from api.schemas import ErrorView, ItemEntry, JobRequest, JobView, Page, RetryResponse
from api.schemas.jobs import RecipeOfJob, Setting, VocabularyOfJob
from api.security import Reader, Writer, WriterAlone
from car.bulk_source import BulkSource
from car.presets import preset
from car.recipe import Recipe
from car.vocabulary import Vocabulary
from db import vocabularies
from db.models import ItemState, Job, JobKind
from db.queue import jobs
from db.queue.jobs import ItemView, NewJob
from db.queue.progress import Progress, progress_of
from worker.celery_app import TaskName

router = APIRouter(prefix="/jobs", tags=["jobs"])

IdempotencyKey = Annotated[
    Text | None,
    Header(max_length=200, description="the same key with the same body is the same job, however often it is sent"),
]


@dataclass(frozen=True)
class _Draft:
    """A job that was asked for, before anything of it is stored."""

    source: BulkSource
    recipe: Recipe
    vocabulary: Vocabulary | UUID


@router.post("", status_code=202, summary="Label pictures", responses={200: {"model": JobView}})
async def create(
    http: Request,
    request: JobRequest,
    key: WriterAlone,
    engines: ConnectionsDep,
    ring: NotifierDep,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> JobView:
    """Takes the job and answers at once; workers list the source and label its pictures."""
    digest = hashlib.sha256(request.model_dump_json().encode()).hexdigest()

    def draft(session: Session) -> JobView | _Draft:
        before = (
            jobs.find_by_idempotency_key(session, key.id, idempotency_key, digest)
            if idempotency_key is not None
            else None
        )
        return one_view(session, before) if before is not None else _draft(session, engines, request)

    def store(draft: _Draft, session: Session) -> tuple[JobView, bool]:
        new = replace(_new_job(session, request, draft), api_key_id=key.id)
        job, made = jobs.create(session, replace(new, idempotency_key=idempotency_key, request_digest=digest))
        return one_view(session, job), made

    asked = await engines.in_transaction(draft, http.receive)
    if isinstance(asked, JobView):
        job, made = asked, False
    else:
        # Neither a connection nor its slot is held meanwhile.
        await engines.from_store(partial(sources.validate_source, engines.objects, asked.source), http.receive)
        job, made = await engines.in_transaction(partial(store, asked), http.receive)
    response.headers["Location"] = f"/api/v1/jobs/{job.id}"
    if made:
        ring(TaskName.LIST)
    else:
        response.status_code = 200
        response.headers["Idempotent-Replay"] = "true"
    return job


@router.get("", summary="Jobs, newest first")
def page(session: SessionDep, _: Reader, cursor: CursorParam = None, limit: Limit = 50) -> Page[JobView]:
    found, after = jobs.page(session, cursor=cursor, limit=limit)
    return Page(items=views(session, found), next=after)


@router.get("/{job_id}", summary="One job")
def get(job_id: UUID, session: SessionDep, _: Reader) -> JobView:
    return one_view(session, jobs.get(session, job_id))


@router.get("/{job_id}/items", summary="The pictures of a job, in the order of listing")
def items(
    job_id: UUID,
    session: SessionDep,
    _: Reader,
    state: ItemState | None = None,
    cursor: CursorParam = None,
    limit: Limit = 50,
) -> Page[ItemEntry]:
    jobs.get(session, job_id)
    found, after = jobs.items(session, job_id, state=state, cursor=cursor, limit=limit)
    return Page(items=[_item(one) for one in found], next=after)


@router.post("/{job_id}/cancel", summary="Stop a job")
def cancel(job_id: UUID, session: SessionDep, _: Writer) -> JobView:
    """Nothing more of it is begun; results that are there stay."""
    return one_view(session, jobs.cancel(session, job_id))


@router.post("/{job_id}/retry", status_code=202, summary="Try failed, dead and cancelled pictures once more")
def retry(job_id: UUID, session: SessionDep, _: Writer, ring: NotifierDep) -> RetryResponse:
    retried = jobs.retry(session, job_id)
    ring(TaskName.LIST)  # a source that could not be listed is listed again
    if retried:
        ring(TaskName.SEGMENT)
    session.flush()
    return RetryResponse(retried=retried, job=one_view(session, jobs.get(session, job_id)))


@router.post("/{job_id}/rescan", status_code=202, summary="List the source again")
def rescan(job_id: UUID, session: SessionDep, _: Writer, ring: NotifierDep) -> JobView:
    """Only pictures that are new or have changed become items."""
    job = jobs.rescan(session, job_id)
    ring(TaskName.LIST)
    session.flush()
    return one_view(session, job)


def _draft(session: Session, engines: Connections, request: JobRequest) -> _Draft:
    """The words and parameters, checked before S3 is asked.

    Raises:
        SourceError, RecipeError, VocabularyError, NotFound.

    """
    given = request.source if isinstance(request.source, str | list) else request.source.model_dump()
    source = BulkSource.parse(given)
    recipe = _recipe(request.preset or engines.settings.preset, request.set)
    vocabulary: Vocabulary | UUID
    if request.labels is not None:
        background = "shipped" if request.background is None else request.background
        vocabulary = vocabulary_of(request.labels, background, recipe.mode)
    else:
        vocabulary = find(session, request.vocabulary or "").id
    return _Draft(source, recipe, vocabulary)


def _new_job(session: Session, request: JobRequest, draft: _Draft) -> NewJob:
    words = draft.vocabulary
    return NewJob(
        kind=JobKind.BULK,
        priority=request.priority,
        source=draft.source.to_json(),
        vocabulary_id=words if isinstance(words, UUID) else vocabularies.get_or_create(session, words),
        recipe_id=vocabularies.get_or_create_recipe(session, draft.recipe),
        name=request.name,
    )


def _recipe(name: str, settings: Mapping[str, Setting]) -> Recipe:
    """Raises: RecipeError."""
    return preset(name).with_settings({key: _written(value) for key, value in settings.items()})


def _written(value: Setting) -> str:
    """As `--set` takes it."""
    if isinstance(value, list):
        return "+".join(value)
    return value if isinstance(value, str) else json.dumps(value)


def one_view(session: Session, job: Job) -> JobView:
    return views(session, [progress_of(session, job)])[0]


def views(session: Session, found: list[Progress]) -> list[JobView]:
    """As the client sees them; words and recipes are fetched once for all."""
    words = vocabularies.several(session, {one.job.vocabulary_id for one in found})
    recipes = vocabularies.several_recipes(session, {one.job.recipe_id for one in found})
    shown = []
    for one in found:
        job, kept, recipe = one.job, words[one.job.vocabulary_id], recipes[one.job.recipe_id]
        vocabulary = VocabularyOfJob(
            id=kept.id,
            digest=kept.digest,
            labels=list(kept.vocabulary.names),
            name=kept.name,
            version=kept.version,
        )
        shown.append(
            JobView(
                id=job.id,
                kind=JobKind(job.kind),
                priority=job.priority,
                name=job.name,
                status=one.status,
                source=job.source,
                source_text=_source_text(job),
                vocabulary=vocabulary,
                recipe=RecipeOfJob(id=recipe.id, digest=recipe.digest, preset=recipe.recipe.preset),
                counts=one.counts,
                total=sum(one.counts.values()),
                reused=one.reused,
                progress=one.progress,
                rate=one.rate,
                eta=one.eta_seconds,
                error=_error(job.error_code, job.error_detail),
                created_at=job.created_at,
                listed_at=job.listed_at,
                cancelled_at=job.cancelled_at,
                finished_at=job.finished_at,
            )
        )
    return shown


def _source_text(job: Job) -> str:
    if job.kind == JobKind.LABEL_STUDIO:
        return "Label Studio"
    return str(BulkSource.from_json(job.source))


def _item(item: ItemView) -> ItemEntry:
    return ItemEntry(
        id=item.id,
        uri=item.uri,
        state=item.state,
        attempt=item.attempt,
        error=_error(item.error_code, item.error_detail),
        result=item.result_id,
        reused=item.reused,
        finished_at=item.finished_at,
    )


def _error(code: str | None, detail: str | None) -> ErrorView | None:
    return None if code is None else ErrorView(code=code, detail=detail)
