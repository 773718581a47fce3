"""Jobs and their items."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import ConfigDict, Field, model_validator

from api.schemas.common import RequestModel, ResponseModel, Text
from db.models import ItemState, JobKind, Priority
from db.queue.progress import JobStatus

Setting = Text | bool | int | float | list[Text]


class LabelRequest(RequestModel):
    """A label with prompts of its own. Several prompts are one query: the mean of their embeddings."""

    name: Text = Field(examples=["car"])
    prompts: list[Text] = Field(examples=[["car", "automobile"]])


class ManifestRequest(RequestModel):
    manifest: Text = Field(description="S3 object with one image URL per line", examples=["s3://bucket/list.txt"])


class PrefixRequest(RequestModel):
    """A prefix whose characters are all taken as they are, also `*`, `?`, `[` and `{`."""

    prefix: Text = Field(description="s3://bucket/prefix", examples=["s3://photos/[2026]/"])


class JobRequest(RequestModel):
    """Images and the labels to look for."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"source": "s3://photos/2026/**/*.jpg", "labels": ["pepsi can", "rusty bolt"], "preset": "voc"},
                {"source": {"manifest": "s3://photos/list.txt"}, "vocabulary": "defects@3", "set": {"theta": 0.5}},
            ]
        }
    )

    source: Text | ManifestRequest | PrefixRequest | list[Text] = Field(
        description="a prefix, a glob (`*`, `?`, `**`, `[abc]`, `{a,b}`), a manifest, or image URLs (s3, http, https)"
    )
    labels: list[Text | LabelRequest] | None = Field(default=None, description="labels to look for")
    vocabulary: Text | None = Field(
        default=None, description="instead of labels: a stored vocabulary's id, name, or name@version"
    )
    background: Text | list[Text] | None = Field(
        default=None,
        description="words that compete with the labels and get no mask: your own, or names of lists joined by + "
        "(shipped, terrestrial, aquatic-atmospheric, man-made, none)",
    )
    preset: Text | None = Field(default=None, description="named recipe; see GET /api/v1/presets")
    set: dict[Text, Setting] = Field(
        default={}, description="parameters of the recipe to change", examples=[{"theta": 0.5}]
    )
    priority: Priority = Field(default=Priority.BULK, description="interactive images are labeled before bulk ones")
    name: Annotated[Text, Field(min_length=1, max_length=200)] | None = Field(default=None, description="for display")

    @model_validator(mode="after")
    def _one_vocabulary(self) -> "JobRequest":
        if (self.labels is None) == (self.vocabulary is None):
            raise ValueError("give either `labels` or `vocabulary`")
        if self.vocabulary is not None and self.background is not None:
            raise ValueError("`background` belongs to `labels`; a stored vocabulary has its own")
        return self


class ErrorView(ResponseModel):
    code: str = Field(examples=["image_corrupt"])
    detail: str | None


def error_view(code: str | None, detail: str | None) -> ErrorView | None:
    return None if code is None else ErrorView(code=code, detail=detail)


class VocabularyOfJob(ResponseModel):
    id: UUID
    digest: str
    labels: list[str]
    name: str | None
    version: int | None


class RecipeOfJob(ResponseModel):
    id: UUID
    digest: str
    preset: str


class JobView(ResponseModel):
    """A job and the states of its items."""

    id: UUID
    kind: JobKind
    priority: Priority
    name: str | None
    status: JobStatus
    source: dict[str, Any] = Field(examples=[{"kind": "glob", "bucket": "photos", "key": "2026/**/*.jpg"}])
    source_text: str = Field(examples=["s3://photos/2026/**/*.jpg"])
    vocabulary: VocabularyOfJob
    recipe: RecipeOfJob
    counts: dict[ItemState, int] = Field(examples=[dict.fromkeys(map(str, ItemState), 0) | {"done": 120}])
    total: int = Field(description="items so far; grows while the source is listed")
    reused: int = Field(description="done items whose result existed already")
    progress: float = Field(ge=0, le=1, description="share of the items that are finished")
    rate: float = Field(description="items finished per second recently")
    eta: float | None = Field(description="seconds left at that rate")
    error: ErrorView | None = Field(description="why the source could not be listed")
    created_at: datetime
    listed_at: datetime | None
    cancelled_at: datetime | None
    finished_at: datetime | None


class CreatedJob(JobView):
    warnings: list[str] = Field(description="what the models do not know; the job runs nevertheless")


class ItemEntry(ResponseModel):
    """One image of a job."""

    id: int
    uri: str
    state: ItemState
    attempt: int
    error: ErrorView | None
    result: UUID | None
    reused: bool
    finished_at: datetime | None


class RetryResponse(ResponseModel):
    retried: int = Field(description="items that are queued again")
    job: JobView
