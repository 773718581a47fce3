"""/api/v1/jobs: wishes, and what became of them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Response
from sqlalchemy.orm import Session

from api import sources
from api.dependencies import CursorParam, DoorbellDep, EnginesDep, Limit, SessionDep, Text
from api.schemas import ErrorView, ItemEntry, JobRequest, JobView, Page, Retried
from api.schemas.jobs import RecipeOfJob, Setting, VocabularyOfJob
from api.security import Reader, Writer
from api.vocabularies import find, vocabulary_of
from car.bulk_source import BulkSource
from car.presets import preset
from car.recipe import Recipe
from car.vocabulary import Vocabulary
from db import jobs, vocabularies
from db.jobs import ItemView, NewJob
from db.models import ItemState, Job, JobKind
from db.progress import Progress, progress_of
from worker.queue import Task

router = APIRouter(prefix="/jobs", tags=["jobs"])

IdempotencyKey = Annotated[
    Text | None,
    Header(max_length=200, description="the same key with the same body is the same job, however often it is sent"),
]


@router.post("", status_code=202, summary="Label pictures", responses={200: {"model": JobView}})
def create(
    request: JobRequest,
    session: SessionDep,
    key: Writer,
    engines: EnginesDep,
    ring: DoorbellDep,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> JobView:
    """Takes the job and answers at once; workers list the source and label its pictures."""
    digest = hashlib.sha256(request.model_dump_json().encode()).hexdigest()
    job = jobs.made_before(session, key.id, idempotency_key, digest) if idempotency_key is not None else None
    made = False
    if job is None:
        new = _new_job(session, engines, request)
        asked = replace(new, api_key_id=key.id, idempotency_key=idempotency_key, request_digest=digest)
        job, made = jobs.create(session, asked)
    response.headers["Location"] = f"/api/v1/jobs/{job.id}"
    if made:
        ring(Task.LIST)
    else:
        response.status_code = 200
        response.headers["Idempotent-Replay"] = "true"
    return one_view(session, job)


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
def retry(job_id: UUID, session: SessionDep, _: Writer, ring: DoorbellDep) -> Retried:
    retried = jobs.retry(session, job_id)
    ring(Task.LIST)  # a source that could not be listed is listed again
    if retried:
        ring(Task.SEGMENT)
    session.flush()
    return Retried(retried=retried, job=one_view(session, jobs.get(session, job_id)))


@router.post("/{job_id}/relist", status_code=202, summary="List the source again")
def relist(job_id: UUID, session: SessionDep, _: Writer, ring: DoorbellDep) -> JobView:
    """Only pictures that are new or have changed become items."""
    job = jobs.relist(session, job_id)
    ring(Task.LIST)
    session.flush()
    return one_view(session, job)


def _new_job(session: Session, engines: EnginesDep, request: JobRequest) -> NewJob:
    """The words and parameters are checked before S3 is asked, and rows written after it, for it may take seconds."""
    given = request.source if isinstance(request.source, str | list) else request.source.model_dump()
    source = BulkSource.parse(given)
    recipe = _recipe(request.preset or engines.settings.preset, request.set)
    vocabulary: Vocabulary | UUID
    if request.labels is not None:
        background = "shipped" if request.background is None else request.background
        vocabulary = vocabulary_of(request.labels, background, recipe.mode)
    else:
        vocabulary = find(session, request.vocabulary or "").id
    sources.look(engines.objects, source)
    return NewJob(
        kind=JobKind.BULK,
        lane=request.lane,
        source=source.to_json(),
        vocabulary_id=vocabulary if isinstance(vocabulary, UUID) else vocabularies.keep(session, vocabulary),
        recipe_id=vocabularies.keep_recipe(session, recipe),
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
                lane=job.lane,
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
