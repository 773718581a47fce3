"""Projects of Label Studio: what each was when last seen, and the job that its tasks belong to."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from db import models
from db.project_pages import ProjectProgress, TaskView, progress, tasks_page
from db.syncs import SyncClaim, advance, claim_sync, fail_sync, finish_sync, sync_waiting, want_all, want_sync

if TYPE_CHECKING:
    from car.project_plan import ProjectPlan

__all__ = [
    "Known",
    "ProjectProgress",
    "Seen",
    "SyncClaim",
    "TaskView",
    "Way",
    "advance",
    "by_stamp",
    "claim_sync",
    "fail_sync",
    "find",
    "finish_sync",
    "note",
    "page",
    "progress",
    "refused",
    "sync_waiting",
    "tasks_page",
    "want_all",
    "want_sync",
]


class Way(StrEnum):
    """How a project came to be seen."""

    SETUP = "setup"
    PREDICT = "predict"
    WEBHOOK = "webhook"
    SYNC = "sync"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What Label Studio told of a project."""

    instance: str
    number: int
    label_config: str
    stamp: str = ""
    """Empty where the way does not tell it: then it is as stored."""
    title: str | None = None
    """None: as stored."""
    extra_params: Mapping[str, Any] | None = None
    """None: as stored."""
    way: Way


@dataclass(frozen=True)
class Known:
    """A project and what its configuration means."""

    row: models.Project
    plan: "ProjectPlan"


def note(session: Session, seen: Seen, *, preset: str) -> Known:
    """Take down what was seen. Other words or another recipe mean another job, whose results come back where a project
    goes back to them; what the job before still had queued is cancelled. Another stamp is another project under the old
    number: tasks and predictions of the old one are forgotten. A look that shows nothing new costs one query.

    Raises:
        LabelingConfigError: the configuration cannot be read; what was known stays. See `refused`.
        RecipeError: extra_params name an unknown setting.
        VocabularyError: a label that no vocabulary can hold.

    """
    raise NotImplementedError


def refused(session: Session, seen: Seen, *, code: str, detail: str) -> None:
    """Show on the project's page, where it is known, why its newest configuration cannot be used."""
    raise NotImplementedError


def find(session: Session, number: int, instance: str | None = None, *, preset: str | None = None) -> Known:
    """By Label Studio's id of it. Without `preset`, the plan has the recipe that is stored.

    Raises:
        NotFound: it was never seen.
        Conflict: two instances have a project of this number; name the instance.

    """
    raise NotImplementedError


def by_stamp(session: Session, stamp: str) -> models.Project | None:
    """The project that /predict names, which does not say of which instance it is."""
    raise NotImplementedError


def page(session: Session, *, cursor: str | None, limit: int) -> tuple[list[models.Project], str | None]:
    """Projects, those that were first seen last before the others, with the cursor of the next page."""
    raise NotImplementedError
