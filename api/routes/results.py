"""/api/v1/results: results, their query histories, and their masks as images."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, TypeVar
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from sqlalchemy.orm import Session

from api import rendering
from api.dependencies import Connections, ConnectionsDep, SessionDep
from api.errors import ObjectsLostError
from api.routes import vocabularies
from api.schemas.common import Page, Text
from api.schemas.results import (
    HistoryView,
    ImageView,
    Links,
    MaskEntry,
    ResultDetailView,
    ResultQuery,
    ResultSummary,
    RleView,
    SourceView,
    StepView,
)
from api.security import Credentials, Reader, authorize
from car.bulk_source import sent_address
from car.model_cards import badge
from car.rendering.history_image import draw_history
from car.rendering.overlay import draw_overlay
from car.segmentation import Step
from db.api_keys import Scope
from db.results import details as result_details
from db.results import queries as result_queries
from db.results import store as result_store
from db.results.details import Detail, Stored
from db.results.queries import ResultFilter, ResultView

router = APIRouter(prefix="/results", tags=["results"])

_PNG = "image/png"
_AS_PNG: dict[int | str, dict[str, Any]] = {200: {"content": {_PNG: {}}, "description": "an image"}}
# A result never changes; a retried one has another URL.
_CACHED = "private, max-age=86400"

Loaded = TypeVar("Loaded")
LabelInPath = Annotated[
    Text, Path(max_length=200, description="any text; write / as %2F and so on", examples=["pepsi can"])
]


@router.get("", summary="Results, newest first")
def page(session: SessionDep, _: Reader, query: Annotated[ResultQuery, Query()]) -> Page[ResultSummary]:
    """Filters are combined with AND. With `job`, an image under three keys has three entries that share a result."""
    filters = query.model_dump(exclude={"cursor", "limit", "vocabulary"})
    vocabulary_id = vocabularies.find(session, query.vocabulary).id if query.vocabulary is not None else None
    where = ResultFilter(**filters, vocabulary=vocabulary_id)
    rows, after = result_queries.page(session, where, cursor=query.cursor, limit=query.limit)
    return Page(items=[_summary(row) for row in rows], next=after)


def _loaded(query: Callable[[Session, UUID], Loaded]) -> Any:  # noqa: ANN401 - FastAPI's
    """Load rows in a transaction that ends before objects are fetched: a slow S3 must not hold database connections."""

    async def load(result_id: UUID, request: Request, connections: ConnectionsDep, credentials: Credentials) -> Loaded:
        def authorized(session: Session) -> Loaded:
            authorize(session, request, credentials, Scope.READ)
            return query(session, result_id)

        return await connections.in_transaction(authorized, request.receive)

    return Depends(load)


DetailDep = Annotated[Detail, _loaded(result_details.get)]
StoredDep = Annotated[Stored, _loaded(result_details.stored)]
"""Without the query history."""


@router.get("/{result_id}", summary="One result in full", response_model=ResultDetailView)
async def get(detail: DetailDep, connections: ConnectionsDep, request: Request) -> Response:
    def document() -> str:
        masks = rendering.masks(connections.objects, detail.stored)
        return _view(detail, masks, _links(connections, detail.stored)).model_dump_json(by_alias=True)

    # Serialized on the thread as well: with many labels it is large.
    return Response(await _fetch(connections, request, detail.stored, document), media_type="application/json")


def _view(detail: Detail, masks: list[dict[str, Any]], links: Links) -> ResultDetailView:
    row, sources = detail.stored.row, detail.sources
    names = ["id", "model_version", "stop_reason", "created_at", "run_key", "weights", "device", "code_version"]
    names += ["worker", "timings", "work"]
    return ResultDetailView.model_validate(
        {
            **{name: getattr(row, name) for name in names},
            "job": sources[0].job if sources else None,
            "uri": sent_address(sources[0].uri) if sources else None,
            "image": ImageView.model_validate(detail.stored.image),
            "reused": bool(sources and sources[0].reused),
            "step_count": row.steps,
            "steps": _steps(detail.steps),
            "masks": masks,
            "uris": [SourceView(job=source.job, uri=sent_address(source.uri)) for source in sources],
            "models": detail.models,
            "recipe": detail.recipe.parameters(),
            "vocabulary": vocabularies.view(detail.vocabulary),
            "notes": detail.stored.image.notes,
            "links": links,
        }
    )


@router.get("/{result_id}/history", summary="The query history: each step's queries, scores and drops")
def history(result_id: UUID, session: SessionDep, _: Reader) -> HistoryView:
    reason, steps = result_details.history(session, result_id)
    return HistoryView(result=result_id, stop_reason=str(reason), steps=_steps(steps))


@router.get("/{result_id}/overlay.png", summary="The masks drawn on the image", responses=_AS_PNG)
async def overlay_png(detail: DetailDep, connections: ConnectionsDep, request: Request) -> Response:
    """Drawn at the size of the preview; without a preview on gray, with the header `X-Car-Picture: none`."""
    return await _drawn(detail, connections, request, "overlay")


@router.get("/{result_id}/history.png", summary="The query history as an image", responses=_AS_PNG)
async def history_png(detail: DetailDep, connections: ConnectionsDep, request: Request) -> Response:
    return await _drawn(detail, connections, request, "history")


@router.get("/{result_id}/labelmap.png", summary="All masks in one indexed image", responses=_AS_PNG)
async def labelmap_png(stored: StoredDep, connections: ConnectionsDep, request: Request) -> Response:
    """0 is no label, k the k-th mask; 16 bits if there are more than 255."""
    fetch = partial(rendering.own, connections.objects, stored.row.labelmap_key)
    return _png_response(await _fetch(connections, request, stored, fetch), f"{stored.row.id}-labels.png")


@router.get("/{result_id}/masks/{label:path}.png", summary="One mask, 255 on 0, at full size", responses=_AS_PNG)
async def mask_png(label: LabelInPath, stored: StoredDep, connections: ConnectionsDep, request: Request) -> Response:
    rle = await _fetch(connections, request, stored, partial(rendering.mask_named, connections.objects, stored, label))
    data = await connections.drawing_limit.run(partial(rendering.mask_png, rle), request.receive)
    return _png_response(data, f"{label}.png")


@router.get("/{result_id}/masks/{label:path}.rle", summary="One mask as COCO RLE")
async def mask_rle(label: LabelInPath, stored: StoredDep, connections: ConnectionsDep, request: Request) -> RleView:
    rle = await _fetch(connections, request, stored, partial(rendering.mask_named, connections.objects, stored, label))
    height, width = rle["size"]
    return RleView(size=(height, width), counts=rle["counts"])


async def _drawn(detail: Detail, connections: Connections, request: Request, kind: str) -> Response:
    # One after the other: a request that waits for S3 holds no drawing slot.
    fetch = partial(rendering.fetch, connections.objects, detail.stored)
    masks, preview = await _fetch(connections, request, detail.stored, fetch)
    note = badge(detail.cards.values(), detail.vocabulary.vocabulary)
    draw_image = partial(draw_overlay, note=note) if kind == "overlay" else draw_history
    draw = partial(rendering.draw, draw_image, detail.stored, detail.steps, masks, preview)
    data = await connections.drawing_limit.run(draw, request.receive)
    response = _png_response(data, f"{detail.stored.row.id}-{kind}.png")
    if preview is None:
        response.headers["X-Car-Picture"] = "none"
    return response


async def _fetch(connections: Connections, request: Request, stored: Stored, function: Callable[[], Loaded]) -> Loaded:
    """Call `function`, which reads objects of the result; record it if they are gone."""
    try:
        return await connections.store_limit.fetch(function, request.receive)
    except ObjectsLostError:
        mark = partial(result_store.mark_lost, result_id=stored.row.id)
        await connections.in_transaction(mark, request.receive)
        raise


def _png_response(data: bytes, name: str) -> Response:
    """Return an image that browsers display and save as `name`, which may be any text."""
    plain = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_. ") else "_" for letter in name)
    disposition = f"inline; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
    return Response(data, media_type=_PNG, headers={"Content-Disposition": disposition, "Cache-Control": _CACHED})


def _links(connections: Connections, stored: Stored) -> Links:
    presign = partial(connections.objects.presign, seconds=connections.settings.presign_seconds)
    row, path = stored.row, f"/api/v1/results/{stored.row.id}"
    return Links(
        masks=presign(row.masks_key, download=f"{row.id}.json"),
        labelmap=presign(row.labelmap_key, download=f"{row.id}.png"),
        overlay=f"{path}/overlay.png",
        history=f"{path}/history",
    )


def _summary(row: ResultView) -> ResultSummary:
    return ResultSummary(
        id=row.id,
        job=row.job,
        uri=sent_address(row.uri) if row.uri else None,
        image=ImageView.model_validate(row),
        model_version=row.model_version,
        stop_reason=row.stop_reason,
        reused=row.reused,
        created_at=row.created_at,
        models=row.models,
        steps=row.steps,
        masks=[MaskEntry.model_validate(mask) for mask in row.masks],
    )


def _steps(steps: tuple[Step, ...]) -> list[StepView]:
    return [
        StepView.model_validate(
            {"step": step.step, "pass": str(step.pass_kind), "queries": [asdict(query) for query in step.queries]}
        )
        for step in steps
    ]
