"""Projects of Label Studio."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import ConfigDict, Field

from api.schemas.common import ConfigProblem, RequestModel, ResponseModel, Text
from api.schemas.jobs import ErrorView
from db.models import ItemState, Outcome, PredictionState

_ITEMS = dict.fromkeys(map(str, ItemState), 0) | {"done": 120}
_PREDICTIONS = dict.fromkeys(map(str, PredictionState), 0) | {"sent": 120}


class ProjectRequest(RequestModel):
    """A project as it is in Label Studio, before its first /setup, /predict or webhook."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "label_config": '<View><Image name="image" value="$image"/>'
                    '<BrushLabels name="brush" toName="image"><Label value="pepsi can"/></BrushLabels></View>',
                    "title": "Shelves",
                    "ls_project_key": "2.1795220370",
                }
            ]
        }
    )

    label_config: Annotated[Text, Field(min_length=1)] = Field(description="labeling configuration, XML")
    title: Annotated[Text, Field(max_length=1000)] | None = Field(default=None, description="for display")
    ls_project_key: Annotated[Text, Field(max_length=100)] = Field(
        default="", description="id and time of creation: `2.1795220370`; another one is another project"
    )
    extra_params: dict[Text, Any] | None = Field(
        default=None, description="of the ML backend: background, prompts and recipe settings; null: unchanged"
    )
    instance: Annotated[Text, Field(max_length=2000)] | None = Field(
        default=None, description="Label Studio's URL; ignored if LABEL_STUDIO_URL is set"
    )


class ProjectLabel(ResponseModel):
    name: str
    prompts: list[str] = Field(description="the texts that CLIP reads")


class SyncView(ResponseModel):
    """A sync, which reads all tasks of a project."""

    wanted_at: datetime | None = Field(description="null if none was requested since the last one ended")
    seen: int = Field(description="tasks read so far")
    total: int | None = Field(description="tasks in Label Studio")
    failure_count: int = Field(description="consecutive failures; it is retried")
    error: str | None = Field(description="of the last attempt")
    synced_at: datetime | None = Field(description="when the last one succeeded")


class ProjectEntry(ResponseModel):
    ls_project_id: int
    instance: str = Field(examples=["http://localhost:8080"])
    title: str | None
    problems: list[ConfigProblem]
    setup_at: datetime | None
    predict_at: datetime | None
    webhook_at: datetime | None
    sync: SyncView
    created_at: datetime


class ReasonView(ResponseModel):
    """Why some tasks have no prediction."""

    code: str = Field(examples=["image_corrupt"])
    count: int
    example: str = Field(description="the detail of one of them")
    ls_task_id: int = Field(description="one of those tasks")


class ProjectView(ProjectEntry):
    """A project and the states of its tasks."""

    ls_project_key: str
    job: UUID | None = Field(description="of its current labels and recipe")
    model_version: str = Field(description="model version of our predictions in Label Studio")
    preset: str
    labels: list[ProjectLabel] | None = Field(description="null if each task has its own labels")
    extra_params: dict[str, Any]
    tasks: int = Field(description="tasks stored here")
    items: dict[ItemState, int] = Field(description="their images by state", examples=[_ITEMS])
    predictions: dict[PredictionState, int] = Field(
        description="of the current configuration by state", examples=[_PREDICTIONS]
    )
    failed: list[ReasonView] = Field(description="why images failed, the most frequent reason first")
    warnings: list[str] = Field(description="words that the models do not know")
    unsent: list[ReasonView] = Field(description="why predictions were refused or wait for a retry")


class TaskEntry(ResponseModel):
    """One task, with the reason if it has no prediction."""

    ls_task_id: int
    uri: str
    state: ItemState
    error: ErrorView | None
    result: UUID | None
    result_url: str | None = Field(description="path in this API", examples=["/api/v1/results/…"])
    finished_at: datetime | None
    model_version: str | None = Field(description="of its prediction")
    prediction: PredictionState | None = Field(description="null if there is none yet")
    ls_prediction_id: int | None = Field(description="null if it was the response to /predict")
    sent_at: datetime | None
    prediction_error: ErrorView | None


class LabelFeedback(ResponseModel):
    """How annotations agree with our masks of one label and its prompts."""

    label: str
    prompts: str
    outcomes: dict[Outcome, int]
    acceptance: float | None = Field(description="share of our masks that annotators accepted")
    mean_iou: float | None = Field(description="of our masks with the annotators' masks")


class ProjectRetried(ResponseModel):
    images: int = Field(description="images that are queued again")
    predictions: int = Field(description="predictions that are sent again")
    project: ProjectView
