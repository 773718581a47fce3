"""The API's responses, as far as the command line reads them; /openapi.json of a running API describes all."""

from typing import Any, NotRequired, TypedDict


class ErrorDetail(TypedDict):
    code: str
    detail: str


class Vocabulary(TypedDict):
    id: str
    labels: list[str]
    name: str | None
    version: int | None


class Recipe(TypedDict):
    id: str
    preset: str


class Job(TypedDict):
    id: str
    kind: str
    priority: str
    name: str | None
    status: str
    source_text: str
    vocabulary: Vocabulary
    recipe: Recipe
    counts: dict[str, int]
    total: int
    reused: int
    progress: float
    rate: float
    eta: float | None
    error: ErrorDetail | None
    created_at: str
    finished_at: str | None


class CreatedJob(Job):
    warnings: list[str]


class Item(TypedDict):
    id: str
    uri: str
    state: str
    attempt: int
    error: ErrorDetail | None
    result: str | None
    reused: bool


class Image(TypedDict):
    sha256: str
    width: int
    height: int


class Mask(TypedDict):
    label: str
    score: float
    area: int
    bbox: list[int]
    source: str
    rle: NotRequired[dict[str, Any]]
    """In a result's detail alone."""


class _Result(TypedDict):
    id: str
    uri: str
    job: str | None
    image: Image
    model_version: str
    stop_reason: str
    masks: list[Mask]
    reused: bool
    created_at: str
    models: dict[str, str]


class ResultSummary(_Result):
    steps: int


class ResultDetail(_Result):
    uris: list[dict[str, str | None]]
    steps: list[dict[str, Any]]
    timings: dict[str, float]
    worker: str
    device: str
    notes: list[str]
    links: dict[str, str | None]


class Sync(TypedDict):
    wanted_at: str | None
    seen: int
    total: int | None
    failure_count: int
    error: str | None
    synced_at: str | None


class ProjectEntry(TypedDict):
    ls_project_id: int
    instance: str
    title: str | None
    problems: list[ErrorDetail]
    setup_at: str | None
    predict_at: str | None
    webhook_at: str | None
    sync: Sync


class Label(TypedDict):
    name: str
    prompts: list[str]


class FailureReason(TypedDict):
    code: str
    count: int
    example: str
    ls_task_id: int


class Project(ProjectEntry):
    model_version: str
    preset: str
    labels: list[Label] | None
    tasks: int
    items: dict[str, int]
    predictions: dict[str, int]
    failed: list[FailureReason]
    unsent: list[FailureReason]
    warnings: list[str]


class ProjectTask(TypedDict):
    ls_task_id: int
    uri: str
    state: str
    error: ErrorDetail | None
    result: str | None
    prediction: str | None
    prediction_error: ErrorDetail | None


class LabelFeedback(TypedDict):
    """How annotators changed the masks of one label."""

    label: str
    prompts: str
    outcomes: dict[str, int]
    acceptance: float | None
    mean_iou: float | None


ENDED = frozenset({"done", "cancelled", "failed"})
"""Statuses of a job on which nothing works any more."""
