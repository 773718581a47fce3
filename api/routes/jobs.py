"""/api/v1/jobs: create jobs, follow and control them."""

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Request, Response
from sqlalchemy.orm import Session

from api import local_models, sources
from api.dependencies import Connections, ConnectionsDep, CursorParam, Limit, NotifyDep, SessionDep
from api.routes.vocabularies import build_vocabulary, find
from api.schemas.common import Page, Text
from api.schemas.jobs import (
    CreatedJob,
    ItemEntry,
    JobRequest,
    JobView,
    RecipeOfJob,
    RetryResponse,
    Setting,
    VocabularyOfJob,
    error_view,
)
from api.security import Reader, Writer, WriterInOwnTransaction
from car.bulk_source import BulkSource, sent_address
from car.model_cards import vocabulary_warnings
from car.presets import apply_settings, preset
from car.recipe import Recipe
from car.vocabulary import Vocabulary
from db import model_registry, vocabularies
from db.models import ItemState, Job, JobKind
from db.queue import jobs
from db.queue.jobs import ItemView, NewJob
from db.queue.progress import Progress, progress_of
from db.vocabularies import StoredRecipe, StoredVocabulary
from worker.celery_app import TaskName

router = APIRouter(prefix="/jobs", tags=["jobs"])

IdempotencyKey = Annotated[
    Text | None,
    Header(max_length=200, description="requests with the same key and body create one job"),
]


@dataclass(frozen=True)
class _Draft:
    """A checked job of which nothing is stored yet."""

    source: BulkSource
    recipe: Recipe
    vocabulary: Vocabulary | UUID
    warnings: list[str]


@router.post("", status_code=202, summary="Create a job that labels images", responses={200: {"model": CreatedJob}})
async def create(
    http: Request,
    request: JobRequest,
    key: WriterInOwnTransaction,
    connections: ConnectionsDep,
    notify: NotifyDep,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> CreatedJob:
    """Responds at once; workers list the source and label its images."""
    digest = hashlib.sha256(request.model_dump_json().encode()).hexdigest()

    def draft(session: Session) -> JobView | _Draft:
        existing = None
        if idempotency_key is not None:
            existing = jobs.find_by_idempotency_key(session, key.id, idempotency_key, digest)
        return view(session, existing) if existing is not None else _draft(session, connections, request)

    def store(draft: _Draft, session: Session) -> tuple[JobView, bool]:
        vocabulary = draft.vocabulary
        if isinstance(vocabulary, Vocabulary):
            vocabulary = vocabularies.get_or_create(session, vocabulary)
        new = NewJob(
            kind=JobKind.BULK,
            priority=request.priority,
            source=draft.source.to_json(),
            vocabulary_id=vocabulary,
            recipe_id=vocabularies.get_or_create_recipe(session, draft.recipe),
            name=request.name,
            api_key_id=key.id,
            idempotency_key=idempotency_key,
            request_digest=digest,
        )
        job, created = jobs.create(session, new)
        return view(session, job), created

    drafted = await connections.in_transaction(draft, http.receive)
    if isinstance(drafted, JobView):
        job, created, warnings = drafted, False, []
    else:
        # No connection and no slot of the database is held meanwhile.
        await connections.store_limit.fetch(
            partial(sources.validate_source, connections.objects, drafted.source), http.receive
        )
        job, created = await connections.in_transaction(partial(store, drafted), http.receive)
        warnings = drafted.warnings
    response.headers["Location"] = f"/api/v1/jobs/{job.id}"
    if created:
        notify(TaskName.LIST)
    else:
        response.status_code = 200
        response.headers["Idempotent-Replay"] = "true"
    return CreatedJob(**dict(job), warnings=warnings)


@router.get("", summary="Jobs, newest first")
def page(session: SessionDep, _: Reader, cursor: CursorParam = None, limit: Limit = 50) -> Page[JobView]:
    rows, after = jobs.page(session, cursor=cursor, limit=limit)
    return Page(items=_views(session, rows), next=after)


@router.get("/{job_id}", summary="One job")
def get(job_id: UUID, session: SessionDep, _: Reader) -> JobView:
    return view(session, jobs.get(session, job_id))


@router.get("/{job_id}/items", summary="Images of a job, in listing order")
def items(
    job_id: UUID,
    session: SessionDep,
    _: Reader,
    state: ItemState | None = None,
    cursor: CursorParam = None,
    limit: Limit = 50,
) -> Page[ItemEntry]:
    jobs.get(session, job_id)
    rows, after = jobs.items(session, job_id, state=state, cursor=cursor, limit=limit)
    return Page(items=[_item(row) for row in rows], next=after)


@router.post("/{job_id}/cancel", summary="Cancel a job")
def cancel(job_id: UUID, session: SessionDep, _: Writer) -> JobView:
    """No further image is started; existing results stay."""
    return view(session, jobs.cancel(session, job_id))


@router.post("/{job_id}/retry", status_code=202, summary="Retry failed, dead and cancelled images")
def retry(job_id: UUID, session: SessionDep, _: Writer, notify: NotifyDep) -> RetryResponse:
    retried = jobs.retry(session, job_id)
    notify(TaskName.LIST)  # in case its source could not be listed
    if retried:
        notify(TaskName.SEGMENT)
    session.flush()
    return RetryResponse(retried=retried, job=view(session, jobs.get(session, job_id)))


@router.post("/{job_id}/rescan", status_code=202, summary="List the source again for new images")
def rescan(job_id: UUID, session: SessionDep, _: Writer, notify: NotifyDep) -> JobView:
    """Only new and changed images become items."""
    job = jobs.rescan(session, job_id)
    notify(TaskName.LIST)
    session.flush()
    return view(session, job)


def _draft(session: Session, connections: Connections, request: JobRequest) -> _Draft:
    """Check the labels and parameters, before S3 is asked about the source.

    Raises:
        SourceError, RecipeError, VocabularyError, NotFoundError.

    """
    source = BulkSource.parse(request.source if isinstance(request.source, str | list) else request.source.model_dump())
    source = source.excluding(connections.objects)
    settings = {key: _setting_text(value) for key, value in request.set.items()}
    recipe = apply_settings(preset(request.preset or connections.settings.preset), settings)
    vocabulary: Vocabulary | UUID
    if request.labels is not None:
        background = "shipped" if request.background is None else request.background
        vocabulary = words = build_vocabulary(request.labels, background, recipe.mode)
    else:
        stored = find(session, request.vocabulary or "")
        vocabulary, words = stored.id, stored.vocabulary
    model_registry.check_tokens(session, words, recipe)
    warnings = model_registry.warnings(session, words, recipe)
    if warnings is None:
        warnings = vocabulary_warnings(local_models.cards(connections.settings.models), words)
    return _Draft(source, recipe, vocabulary, warnings)


def _setting_text(value: Setting) -> str:
    """Return the value as `--set` takes it."""
    if isinstance(value, list):
        return "+".join(value)
    return value if isinstance(value, str) else json.dumps(value)


def view(session: Session, job: Job) -> JobView:
    return _views(session, [progress_of(session, job)])[0]


def _views(session: Session, rows: list[Progress]) -> list[JobView]:
    """Return the jobs as clients see them; vocabularies and recipes are fetched once for all."""
    stored_vocabularies = vocabularies.several(session, {row.job.vocabulary_id for row in rows})
    recipes = vocabularies.several_recipes(session, {row.job.recipe_id for row in rows})
    return [_view(row, stored_vocabularies[row.job.vocabulary_id], recipes[row.job.recipe_id]) for row in rows]


def _view(row: Progress, vocabulary: StoredVocabulary, recipe: StoredRecipe) -> JobView:
    job = row.job
    is_label_studio = job.kind == JobKind.LABEL_STUDIO
    return JobView(
        id=job.id,
        kind=JobKind(job.kind),
        priority=job.priority,
        name=job.name,
        status=row.status,
        source=job.source,
        source_text="Label Studio" if is_label_studio else str(BulkSource.from_json(job.source)),
        vocabulary=VocabularyOfJob(
            id=vocabulary.id,
            digest=vocabulary.digest,
            labels=list(vocabulary.vocabulary.names),
            name=vocabulary.name,
            version=vocabulary.version,
        ),
        recipe=RecipeOfJob(id=recipe.id, digest=recipe.digest, preset=recipe.recipe.preset),
        counts=row.counts,
        total=sum(row.counts.values()),
        reused=row.reused,
        progress=row.progress,
        rate=row.rate,
        eta=row.eta_seconds,
        error=error_view(job.error_code, job.error_detail),
        created_at=job.created_at,
        listed_at=job.listed_at,
        cancelled_at=job.cancelled_at,
        finished_at=job.finished_at,
    )


def _item(item: ItemView) -> ItemEntry:
    return ItemEntry(
        id=item.id,
        uri=sent_address(item.uri),
        state=item.state,
        attempt=item.attempt,
        error=error_view(item.error_code, item.error_detail),
        result=item.result_id,
        reused=item.reused,
        finished_at=item.finished_at,
    )
