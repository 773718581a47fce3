"""Jobs and their items."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import ConfigDict, Field, model_validator

from api.dependencies import Text
from api.schemas.common import RequestModel, ResponseModel
from db.models import ItemState, JobKind, Priority
from db.queue.progress import JobStatus

Setting = Text | bool | int | float | list[Text]


class LabelRequest(RequestModel):
    """A label whose prompts are not its name. Several prompts are one query: the mean of their embeddings."""

    name: Text = Field(examples=["car"])
    prompts: list[Text] = Field(examples=[["car", "automobile"]])


class ManifestRequest(RequestModel):
    manifest: Text = Field(description="object with one address a line", examples=["s3://bucket/list.txt"])


class JobRequest(RequestModel):
    """Label these pictures with these words."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"source": "s3://photos/2026/**/*.jpg", "labels": ["pepsi can", "rusty bolt"], "preset": "voc"},
                {"source": {"manifest": "s3://photos/list.txt"}, "vocabulary": "defects@3", "set": {"theta": 0.5}},
            ]
        }
    )

    source: Text | ManifestRequest | list[Text] = Field(
        description="a prefix, a glob (`*`, `?`, `**`, `[abc]`, `{a,b}`), a manifest, or addresses (s3, http, https)"
    )
    labels: list[Text | LabelRequest] | None = Field(default=None, description="words to look for")
    vocabulary: Text | None = Field(
        default=None, description="instead of labels: a stored vocabulary's id, name, or name@version"
    )
    background: Text | list[Text] | None = Field(
        default=None,
        description="words that compete and never become masks: your own, or names of lists joined by + "
        "(shipped, terrestrial, aquatic-atmospheric, man-made, none)",
    )
    preset: Text | None = Field(default=None, description="recipe to begin with; see GET /api/v1/presets")
    set: dict[Text, Setting] = Field(default={}, description="parameters to change", examples=[{"theta": 0.5}])
    priority: Priority = Field(default=Priority.BULK, description="interactive pictures go before bulk ones")
    name: Annotated[Text, Field(min_length=1, max_length=200)] | None = Field(default=None, description="for people")

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
    """A job and what became of its items so far."""

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
    total: int = Field(description="items known so far; grows while the source is being listed")
    reused: int = Field(description="done items whose result was there already")
    progress: float = Field(ge=0, le=1, description="share of known items that came to an end")
    rate: float = Field(description="items that ended in a second, lately")
    eta: float | None = Field(description="seconds left at that rate")
    error: ErrorView | None = Field(description="why the source could not be listed")
    created_at: datetime
    listed_at: datetime | None
    cancelled_at: datetime | None
    finished_at: datetime | None


class ItemEntry(ResponseModel):
    """One picture of a job."""

    id: int
    uri: str
    state: ItemState
    attempt: int
    error: ErrorView | None
    result: UUID | None
    reused: bool
    finished_at: datetime | None


class RetryResponse(ResponseModel):
    retried: int = Field(description="items that are queued once more")
    job: JobView
