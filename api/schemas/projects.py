"""Label Studio's projects, as this service knows them."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import ConfigDict, Field

from api.dependencies import Text
from api.schemas.common import RequestModel, ResponseModel
from api.schemas.jobs import ErrorView
from db.models import ItemState, Outcome, PredictionState

_ITEMS = dict.fromkeys(map(str, ItemState), 0) | {"done": 120}
_PREDICTIONS = dict.fromkeys(map(str, PredictionState), 0) | {"sent": 120}


class ProjectRequest(RequestModel):
    """A project as Label Studio has it, for one that no /setup, /predict or webhook has told of yet."""

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
    title: Annotated[Text, Field(max_length=1000)] | None = Field(default=None, description="for people")
    ls_project_key: Annotated[Text, Field(max_length=100)] = Field(
        default="", description="number and time of creation: `2.1795220370`; another one means another project"
    )
    extra_params: dict[Text, Any] | None = Field(
        default=None, description="of the ML backend: background, prompts and recipe settings; null: as they are"
    )
    instance: Annotated[Text, Field(max_length=2000)] | None = Field(
        default=None, description="Label Studio's address; LABEL_STUDIO_URL where that is set"
    )


class ProjectLabel(ResponseModel):
    name: str
    prompts: list[str] = Field(description="as CLIP reads it")


class ProblemOfProject(ResponseModel):
    """What of the labeling configuration cannot be mapped."""

    code: str
    detail: str


class SyncView(ResponseModel):
    """A sync: it goes through all tasks of a project."""

    wanted_at: datetime | None = Field(description="null where none is asked for: the last one has ended")
    seen: int = Field(description="tasks that it has handled")
    total: int | None = Field(description="tasks there are, as Label Studio says")
    failure_count: int = Field(description="in a row; it is tried again")
    error: str | None = Field(description="of the last try")
    synced_at: datetime | None = Field(description="when the last one ended well")


class ProjectEntry(ResponseModel):
    ls_project_id: int
    instance: str = Field(examples=["http://localhost:8080"])
    title: str | None
    problems: list[ProblemOfProject]
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
    """A project and what became of its tasks."""

    ls_project_key: str
    job: UUID | None = Field(description="of its present words and recipe")
    model_version: str = Field(description="what Label Studio knows our predictions by")
    preset: str
    labels: list[ProjectLabel] | None = Field(description="null where each task gives its own words")
    extra_params: dict[str, Any]
    tasks: int = Field(description="tasks that are known here")
    items: dict[ItemState, int] = Field(description="their pictures", examples=[_ITEMS])
    predictions: dict[PredictionState, int] = Field(description="of the present configuration", examples=[_PREDICTIONS])
    failed: list[ReasonView] = Field(description="why pictures failed, the most frequent reason first")
    unsent: list[ReasonView] = Field(description="why predictions were refused, or wait after an error")


class TaskEntry(ResponseModel):
    """One task, and why it has no prediction where it has none."""

    ls_task_id: int
    uri: str
    state: ItemState
    error: ErrorView | None
    result: UUID | None
    result_url: str | None = Field(description="of this API", examples=["/api/v1/results/…"])
    finished_at: datetime | None
    model_version: str | None = Field(description="of its prediction")
    prediction: PredictionState | None = Field(description="null: there is none yet")
    ls_prediction_id: int | None = Field(description="null where it was the answer to /predict")
    sent_at: datetime | None
    prediction_error: ErrorView | None


class LabelFeedback(ResponseModel):
    """What annotators made of one label, as CLIP read it."""

    label: str
    prompts: str
    outcomes: dict[Outcome, int]
    acceptance: float | None = Field(description="share of our masks that were kept, or nearly so")
    mean_iou: float | None = Field(description="of our masks with theirs")


class ProjectRetried(ResponseModel):
    pictures: int = Field(description="that are queued once more")
    predictions: int = Field(description="that are sent once more")
    project: ProjectView
