"""A project as Label Studio tells it, beside the project as it stands: mostly they are the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Select, func, select, text
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from car.project_plan import ProjectPlan, plan_project
from db import models, offers

_NOTED_ANEW = timedelta(seconds=5)
"""Label Studio comes several times for one click; the time of its last coming is written so often at most."""


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
    plan: ProjectPlan


@dataclass(frozen=True)
class Standing:
    """A project that is as it was, and the weights that its results would be of; None: no worker ever told any."""

    known: Known
    weights: Mapping[str, str] | None


@dataclass(frozen=True)
class Found:
    """A project's row as it stands."""

    row: models.Project
    recipe: str | None
    """Digest of its job's."""
    now: datetime

    def is_as(self, seen: Seen, extra_params: Mapping[str, Any], plan: ProjectPlan) -> bool:
        row = self.row
        return (
            (row.label_config, row.extra_params) == (seen.label_config, extra_params)
            and (row.words, row.regions, self.recipe) == (plan.words, plan.regions, plan.recipe.digest)
            and row.problems == problems_of(plan)
            and seen.stamp in ("", row.stamp)
            and seen.title in (None, row.title)
        )

    def came(self, session: Session, way: Way) -> None:
        """Take down the time, without waiting for anybody who has the row, nor for the disk."""
        if way is Way.SYNC:
            return
        last = getattr(self.row, f"{way}_at")
        if last is None or last < self.now - _NOTED_ANEW:
            session.execute(
                text(
                    f"UPDATE project SET {way}_at = now() "  # noqa: S608 - one of three words
                    "FROM (SELECT set_config('synchronous_commit', 'off', true)) AS quickly WHERE id IN "
                    "(SELECT id FROM project WHERE id = :id FOR NO KEY UPDATE SKIP LOCKED)"
                ),
                {"id": self.row.id},
            )
            set_committed_value(self.row, f"{way}_at", self.now)


def looked_up(session: Session, instance: str, number: int) -> Found | None:
    row = session.execute(_question(instance, number)).one_or_none()
    return Found(*row) if row is not None else None


def standing(session: Session, seen: Seen, *, preset: str) -> Standing | None:
    """What is known, in one round trip, where all is as it was; None where there is something to take down besides the
    time. It needs no transaction.

    Raises:
        LabelingConfigError, RecipeError, VocabularyError: see `db.projects.note`.

    """
    row = session.execute(_question(seen.instance, seen.number).add_columns(offers.every())).one_or_none()
    if row is None:
        return None
    *columns, offered = row
    look = Found(*columns)
    if look.row.label_config != seen.label_config:
        return None
    extra_params = look.row.extra_params if seen.extra_params is None else seen.extra_params
    plan = plan_project(seen.label_config, extra_params, preset=preset)
    if not look.is_as(seen, extra_params, plan):
        return None
    look.came(session, seen.way)
    return Standing(Known(look.row, plan), offers.of(offered, plan.recipe))


def _question(instance: str, number: int) -> Select[Any]:
    project = models.Project
    return (
        select(project, models.Recipe.digest, func.now())
        .outerjoin(models.Job, models.Job.id == project.job_id)
        .outerjoin(models.Recipe, models.Recipe.id == models.Job.recipe_id)
        .where(project.instance == instance, project.number == number)
    )


def problems_of(plan: ProjectPlan) -> list[dict[str, str]]:
    """As they are stored."""
    return [{"code": one.code, "detail": one.detail} for one in plan.problems]
