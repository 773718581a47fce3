"""How far a project is, and its tasks page by page."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from db import models
from db.models import ItemState, PredictionState


@dataclass(frozen=True)
class Reason:
    """Why some tasks have no prediction."""

    code: str
    count: int
    example: str
    """The detail of one of them."""
    task: int
    """Its number."""


@dataclass(frozen=True)
class ProjectProgress:
    """A project's tasks and what became of them, as its present vocabulary and recipe go."""

    row: models.Project
    model_version: str
    """As /setup answers it."""
    tasks: int
    items: dict[ItemState, int]
    """Tasks by the state of their picture."""
    predictions: dict[PredictionState, int]
    """Of the present words and regions."""
    failed: list[Reason]
    """Of pictures, the most frequent first."""
    unsent: list[Reason]
    """Of predictions that Label Studio refused, or that wait after an error."""


@dataclass(frozen=True)
class TaskView:
    """A task as its project's owner sees it."""

    task: int
    item_id: int
    uri: str
    state: ItemState
    error_code: str | None
    error_detail: str | None
    result_id: UUID | None
    finished_at: datetime | None
    model_version: str | None
    """Of its newest prediction of the present words and regions, as the fields below are."""
    prediction_state: PredictionState | None
    prediction_id: int | None
    """Label Studio's."""
    prediction_error_code: str | None
    prediction_error_detail: str | None
    sent_at: datetime | None


def progress(session: Session, project: models.Project, *, weights: Mapping[str, Any] | None = None) -> ProjectProgress:
    """Counted now. `weights`: those that /setup makes its version of; without, the newest that a worker offered."""
    raise NotImplementedError


def tasks_page(
    session: Session, project: models.Project, *, state: ItemState | None, cursor: str | None, limit: int
) -> tuple[list[TaskView], str | None]:
    """Tasks in the order of their numbers, with the cursor of the next page."""
    raise NotImplementedError
