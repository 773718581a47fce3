"""Results, masks and the query history."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from api.schemas.common import RequestModel, ResponseModel, Text
from api.schemas.vocabularies import VocabularyView

_SMALLINT = 32_767
_Word = Annotated[Text, Field(max_length=200)]


class ResultQuery(RequestModel):
    """Filters of GET /results. Unknown ones are refused, because the list would be a different one without them."""

    label: _Word | None = Field(default=None, description="has a mask of this label")
    min_score: float | None = Field(
        default=None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="of the label's mask; without a label, of the best mask",
    )
    job: UUID | None = Field(default=None, description="one entry per done image of the job")
    image: str | None = Field(default=None, pattern="^[0-9a-f]{64}$", description="sha256 of the image file")
    model_version: _Word | None = Field(default=None, description="of the result, or of its prediction in Label Studio")
    dropped: _Word | None = Field(default=None, description="a label that the recurrence dropped")
    dropped_at: int | None = Field(
        default=None, ge=1, le=_SMALLINT, description="step in which that label, or any, was dropped"
    )
    vocabulary: _Word | None = Field(default=None, description="id, name or name@version")
    cursor: Annotated[Text, Field(max_length=1000)] | None = Field(
        default=None, description="`next` of the previous page; omit it for the first page"
    )
    limit: int = Field(default=50, ge=1, le=500, description="most entries on a page")


class ImageView(ResponseModel):
    sha256: str = Field(description="of the file")
    width: int = Field(description="after EXIF orientation")
    height: int
    format: str = Field(examples=["JPEG"])


class MaskEntry(ResponseModel):
    label: str
    score: float = Field(description="at its last step, 0 to 1")
    area: int = Field(description="pixels")
    bbox: tuple[int, int, int, int] = Field(description="x, y, width, height")
    source: str = Field(examples=["crf"])


class RleView(ResponseModel):
    """COCO's compressed run lengths."""

    size: tuple[int, int] = Field(description="height, width")
    counts: str


class MaskDetail(MaskEntry):
    rle: RleView


class QueryView(ResponseModel):
    """One query of one step."""

    label: str
    text: str = Field(description="the text that CLIP read")
    score: float
    kept: bool
    area: int = Field(description="pixels of the proposal that the classifier saw")
    iou_previous: float | None
    rival: str | None = Field(description="the label that fits this proposal better, if any")
    rival_score: float | None


class StepView(ResponseModel):
    step: int
    pass_kind: str = Field(alias="pass", description="things or stuff")
    queries: list[QueryView]


class _Entry(ResponseModel):
    id: UUID
    job: UUID | None
    uri: str | None = Field(description="one URL of the image")
    image: ImageView
    model_version: str
    stop_reason: str
    reused: bool = Field(description="the result existed before this item")
    created_at: datetime
    models: dict[str, str] = Field(description="name of each model that ran, by role", examples=[{"proposal": "demo"}])


class ResultSummary(_Entry):
    steps: int
    masks: list[MaskEntry]


class SourceView(ResponseModel):
    job: UUID
    uri: str


class Links(ResponseModel):
    masks: str = Field(description="all masks as COCO RLE; works without a key for some minutes")
    labelmap: str = Field(description="indexed PNG: 0 is no label, k the k-th mask; as `masks`")
    overlay: str
    history: str


class ResultDetailView(_Entry):
    """A result in full; includes what `car segment --json` writes."""

    step_count: int
    steps: list[StepView]
    masks: list[MaskDetail]
    uris: list[SourceView] = Field(description="up to 20 URLs of this image")
    run_key: str
    weights: dict[str, str] = Field(description="sha256 of each model's weights, by role")
    device: str
    code_version: str = Field(description="version of the arithmetic")
    worker: str
    timings: dict[str, float]
    work: dict[str, int]
    recipe: dict[str, Any] = Field(description="every parameter; `models` has the models")
    vocabulary: VocabularyView
    notes: list[str]
    links: Links


class HistoryView(ResponseModel):
    result: UUID
    stop_reason: str
    steps: list[StepView]
