"""/api/v1/results: what came out, how it came about, and its masks as pictures."""

from dataclasses import asdict
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from sqlalchemy.orm import Session

from api import rendering
from api.dependencies import Connections, ConnectionsDep, SessionDep, Text
from api.routes import vocabularies
from api.schemas import HistoryView, Page, ResultDetailView, ResultSummary, RleView
from api.schemas.results import ImageView, Links, MaskEntry, ResultQuery, SourceView, StepView
from api.security import Given, Reader, authorize
from car.segmentation import Step
from db.api_keys import Scope
from db.models import Image
from db.objects import ObjectStore
from db.results import details as result_details
from db.results import queries as result_queries
from db.results.details import Detail, Stored
from db.results.queries import ResultFilter, ResultView

router = APIRouter(prefix="/results", tags=["results"])

_PNG = "image/png"
_AS_PNG: dict[int | str, dict[str, Any]] = {200: {"content": {_PNG: {}}, "description": "a picture"}}
# A result never changes; a link to one that was retried is another link.
_KEPT = "private, max-age=86400"

LabelInPath = Annotated[
    Text, Path(max_length=200, description="any text; write / as %2F and so on", examples=["pepsi can"])
]


@router.get("", summary="Results, newest first")
def page(session: SessionDep, _: Reader, query: Annotated[ResultQuery, Query()]) -> Page[ResultSummary]:
    """Filters combine; each narrows. With `job` one picture under three keys is three entries that share a result."""
    filters = query.model_dump(exclude={"cursor", "limit", "vocabulary"})
    words = vocabularies.find(session, query.vocabulary).id if query.vocabulary is not None else None
    wanted = ResultFilter(**filters, vocabulary=words)
    found, after = result_queries.page(session, wanted, cursor=query.cursor, limit=query.limit)
    return Page(items=[_summary(one) for one in found], next=after)


async def _detail(result_id: UUID, request: Request, engines: ConnectionsDep, given: Given) -> Detail:
    """All rows of a result, in a transaction that ends before its objects are fetched: a slow store must not hold the
    connections of requests that need none of it.
    """

    def rows(session: Session) -> Detail:
        authorize(session, request, given, Scope.READ)
        return result_details.get(session, result_id)

    return await engines.in_transaction(rows, request.receive)


async def _stored(result_id: UUID, request: Request, engines: ConnectionsDep, given: Given) -> Stored:
    """As `_detail`, without the history."""

    def rows(session: Session) -> Stored:
        authorize(session, request, given, Scope.READ)
        return result_details.stored(session, result_id)

    return await engines.in_transaction(rows, request.receive)


DetailDep = Annotated[Detail, Depends(_detail)]
StoredDep = Annotated[Stored, Depends(_stored)]


@router.get("/{result_id}", summary="One result with everything about it", response_model=ResultDetailView)
async def get(found: DetailDep, engines: ConnectionsDep, request: Request) -> Response:
    def document() -> str:
        masks = rendering.masks(engines.objects, found.stored)
        return _view(found, masks, _links(engines, found.stored)).model_dump_json(by_alias=True)

    # Written on the thread as well: with many words it is long.
    return Response(await engines.from_store(document, request.receive), media_type="application/json")


def _view(found: Detail, masks: list[dict[str, Any]], links: Links) -> ResultDetailView:
    row, places = found.stored.row, found.places
    return ResultDetailView.model_validate(
        {
            "id": row.id,
            "job": places[0].job if places else None,
            "uri": places[0].uri if places else None,
            "image": _image(found.stored.image),
            "model_version": row.model_version,
            "stop_reason": row.stop_reason,
            "reused": bool(places and places[0].reused),
            "created_at": row.created_at,
            "step_count": row.steps,
            "steps": _steps(found.steps),
            "masks": masks,
            "uris": [SourceView(job=one.job, uri=one.uri) for one in places],
            "run_key": row.run_key,
            "weights": row.weights,
            "device": row.device,
            "code_version": row.code_version,
            "worker": row.worker,
            "timings": row.timings,
            "work": row.work,
            "recipe": found.recipe.to_json(),
            "vocabulary": vocabularies.view(found.vocabulary),
            "notes": found.stored.image.notes,
            "links": links,
        }
    )


@router.get("/{result_id}/history", summary="The query history: what each step made of each word")
def history(result_id: UUID, session: SessionDep, _: Reader) -> HistoryView:
    reason, steps = result_details.history(session, result_id)
    return HistoryView(result=result_id, stop_reason=str(reason), steps=_steps(steps))


@router.get("/{result_id}/overlay.png", summary="The masks on their picture", responses=_AS_PNG)
async def overlay_png(found: DetailDep, engines: ConnectionsDep, request: Request) -> Response:
    """Drawn at the size of the preview. `X-Car-Picture: none` where there is no preview, and gray instead of it."""
    return await _drawn(found, engines, request, "overlay")


@router.get("/{result_id}/history.png", summary="The query history as a picture", responses=_AS_PNG)
async def history_png(found: DetailDep, engines: ConnectionsDep, request: Request) -> Response:
    return await _drawn(found, engines, request, "history")


@router.get("/{result_id}/labelmap.png", summary="All masks in one indexed picture", responses=_AS_PNG)
async def labelmap_png(stored: StoredDep, engines: ConnectionsDep, request: Request) -> Response:
    """0 is no label, k the k-th mask; 16 bits where there are more than 255."""
    fetch = partial(rendering.own, engines.objects, stored.row.labelmap_key)
    return _picture(await engines.from_store(fetch, request.receive), f"{stored.row.id}-labels.png")


@router.get("/{result_id}/masks/{label:path}.png", summary="One mask, 255 on 0, at full size", responses=_AS_PNG)
async def mask_png(label: LabelInPath, stored: StoredDep, engines: ConnectionsDep, request: Request) -> Response:
    rle = await engines.from_store(partial(rendering.mask_named, engines.objects, stored, label), request.receive)
    data = await engines.drawing_limit.run(partial(rendering.mask_png, rle), request.receive)
    return _picture(data, f"{label}.png")


@router.get("/{result_id}/masks/{label:path}.rle", summary="One mask as COCO RLE")
async def mask_rle(label: LabelInPath, stored: StoredDep, engines: ConnectionsDep, request: Request) -> RleView:
    rle = await engines.from_store(partial(rendering.mask_named, engines.objects, stored, label), request.receive)
    height, width = rle["size"]
    return RleView(size=(height, width), counts=rle["counts"])


async def _drawn(found: Detail, engines: Connections, request: Request, what: str) -> Response:
    # One after the other: whoever waits for S3 holds up no drawing.
    objects = await engines.from_store(partial(rendering.fetch, engines.objects, found.stored), request.receive)

    def draw() -> tuple[bytes, bool]:
        scene = rendering.load_render_input(objects, found.stored, found.steps)
        return rendering.overlay_png(scene) if what == "overlay" else rendering.history_png(scene), scene.has_picture

    data, has_picture = await engines.drawing_limit.run(draw, request.receive)
    answer = _picture(data, f"{found.stored.row.id}-{what}.png")
    if not has_picture:
        answer.headers["X-Car-Picture"] = "none"
    return answer


def _picture(data: bytes, name: str) -> Response:
    """Shown in place, and saved under `name`, which may be any text."""
    plain = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_. ") else "_" for letter in name)
    disposition = f"inline; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
    return Response(data, media_type=_PNG, headers={"Content-Disposition": disposition, "Cache-Control": _KEPT})


def _links(engines: Connections, stored: Stored) -> Links:
    store, seconds, ours = engines.objects, engines.settings.presign_seconds, f"/api/v1/results/{stored.row.id}"
    return Links(
        masks=_presigned(store, stored.row.masks_key, seconds, f"{stored.row.id}.json"),
        labelmap=_presigned(store, stored.row.labelmap_key, seconds, f"{stored.row.id}.png"),
        overlay=f"{ours}/overlay.png",
        history=f"{ours}/history",
    )


def _presigned(store: ObjectStore, key: str, seconds: int, name: str) -> str:
    return store.presign(key, seconds=seconds, download=name)


def _summary(found: ResultView) -> ResultSummary:
    return ResultSummary(
        id=found.id,
        job=found.job,
        uri=found.uri,
        image=ImageView(sha256=found.sha256, width=found.width, height=found.height, format=found.format),
        model_version=found.model_version,
        stop_reason=found.stop_reason,
        reused=found.reused,
        created_at=found.created_at,
        steps=found.steps,
        masks=[MaskEntry.model_validate(mask) for mask in found.masks],
    )


def _image(image: Image) -> ImageView:
    return ImageView(sha256=image.sha256, width=image.width, height=image.height, format=image.format)


def _steps(steps: tuple[Step, ...]) -> list[StepView]:
    return [
        StepView.model_validate(
            {"step": one.step, "pass": str(one.pass_kind), "queries": [asdict(q) for q in one.queries]}
        )
        for one in steps
    ]
