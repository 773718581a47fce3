"""Projects of Label Studio: what each was when last seen, and the job that its tasks belong to."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Select, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from car.label_studio.project_config import ProjectConfig, build_project_config
from db import models
from db.errors import ConflictError, NotFoundError
from db.label_studio import project_jobs
from db.leases import storable
from db.pagination import Cursor
from db.queue import model_registry

UNKNOWN_INSTANCE = ""
"""The instance of a project whose Label Studio has asked for predictions and not told its address yet."""
_CONTACT_INTERVAL = timedelta(seconds=5)
"""Label Studio comes several times for one click; the time of its last request is written so often at most."""


class RequestKind(StrEnum):
    """How a project came to be seen."""

    SETUP = "setup"
    PREDICT = "predict"
    WEBHOOK = "webhook"
    SYNC = "sync"


@dataclass(frozen=True, kw_only=True)
class ProjectPayload:
    """A project as a request of Label Studio describes it, or its API."""

    instance: str
    ls_project_id: int
    label_config: str
    ls_project_key: str = ""
    """Empty where the request does not tell it: then it is as stored."""
    title: str | None = None
    """None: as stored."""
    extra_params: Mapping[str, Any] | None = None
    """None: as stored."""
    kind: RequestKind


@dataclass(frozen=True)
class ResolvedProject:
    """A project's row, and what its configuration means."""

    row: models.Project
    plan: ProjectConfig
    weights: Mapping[str, str] | None = None
    """Those that its results would be of, where they were looked up and a worker ever registered any."""


# The first finds nothing but in the moment when an address is first told.
_SET_INSTANCE = (
    text("""
        UPDATE project SET instance = :instance WHERE instance = :unknown AND ls_project_key = :key
            AND NOT EXISTS (
                SELECT 1 FROM project AS known
                WHERE known.instance = :instance AND known.ls_project_id = project.ls_project_id
            )
        RETURNING id
    """),
    text("""
        UPDATE job SET source = source || jsonb_build_object('instance', CAST(:instance AS text))
        FROM project WHERE kind = 'label_studio' AND source->>'instance' = :unknown AND project.instance = :instance
            AND project.ls_project_key = :key AND source->>'project' = CAST(project.ls_project_id AS text)
        RETURNING job.id
    """),
    text("""
        UPDATE prediction SET instance = :instance FROM project WHERE prediction.instance = :unknown
            AND project.instance = :instance AND project.ls_project_key = :key
            AND prediction.ls_project_id = project.ls_project_id
        RETURNING prediction.id
    """),
)


def find_unchanged(session: Session, payload: ProjectPayload, *, preset: str) -> ResolvedProject | None:
    """Find a project that is as it was, with its weights, in one round trip; None where there is something to store
    besides the time. It needs no transaction.

    Raises:
        LabelingConfigError, RecipeError, VocabularyError: see `upsert`.

    """
    query = _stored(payload.instance, payload.ls_project_id).add_columns(model_registry.all_entries())
    found = session.execute(query).one_or_none()
    if found is None or found[0].label_config != payload.label_config:
        return None
    row, recipe, now, entries = found
    extra_params = row.extra_params if payload.extra_params is None else payload.extra_params
    plan = build_project_config(payload.label_config, extra_params, preset=preset)
    if not _is_unchanged(row, recipe, payload, extra_params, plan):
        return None
    _store_contact(session, row, payload.kind, now)
    return ResolvedProject(row, plan, model_registry.match_weights(entries, plan.recipe))


def upsert(session: Session, payload: ProjectPayload, *, preset: str) -> ResolvedProject:
    """Store what was seen. Other words or another recipe mean another job, whose results come back where a project goes
    back to them; what the job before still had queued is cancelled. Another key is another project under the old
    number: tasks and predictions of the old one are forgotten. A payload that brings nothing new costs one query.

    Raises:
        LabelingConfigError: the configuration cannot be read; what was known stays. See `record_problem`.
        RecipeError: extra_params name an unknown setting.
        VocabularyError: a label that no vocabulary can hold.

    """
    found = session.execute(_stored(payload.instance, payload.ls_project_id)).one_or_none()
    extra_params = payload.extra_params
    if extra_params is None:
        extra_params = found[0].extra_params if found is not None else {}
    plan = build_project_config(payload.label_config, extra_params, preset=preset)
    if found is not None and _is_unchanged(found[0], found[1], payload, extra_params, plan):
        _store_contact(session, found[0], payload.kind, found[2])
        return ResolvedProject(found[0], plan)
    row = _locked(session, payload, plan)
    if payload.ls_project_key and row.ls_project_key and payload.ls_project_key != row.ls_project_key:
        project_jobs.forget(session, row)
    row.ls_project_key = payload.ls_project_key or row.ls_project_key
    row.title = payload.title if payload.title is not None else row.title
    row.label_config, row.extra_params = payload.label_config, dict(extra_params)
    row.vocabulary_digest, row.region_digest = plan.vocabulary_digest, plan.region_digest
    row.problems = _problems(plan)
    row.job_id = project_jobs.job_of(session, row, plan)
    if payload.kind is not RequestKind.SYNC:
        setattr(row, f"{payload.kind}_at", func.now())
    session.flush()
    session.refresh(row)
    return ResolvedProject(row, plan)


def set_instance(session: Session, ls_project_key: str, instance: str) -> None:
    """Label Studio tells its address: what it asked before it had told is of it."""
    values = {"key": ls_project_key, "instance": instance, "unknown": UNKNOWN_INSTANCE}
    first, *others = _SET_INSTANCE
    if ls_project_key and instance and session.execute(first, values).all():
        for change in others:
            session.execute(change, values)


def record_problem(session: Session, payload: ProjectPayload, *, code: str, detail: str) -> None:
    """Show on the project's page, where it is known, why its newest configuration cannot be used."""
    found = session.execute(_stored(payload.instance, payload.ls_project_id)).one_or_none()
    problems = [{"code": code, "detail": storable(detail)}]
    if found is not None and found[0].problems != problems:
        found[0].problems = problems
        session.flush()


def find(
    session: Session, ls_project_id: int, instance: str | None = None, *, preset: str | None = None
) -> ResolvedProject:
    """By Label Studio's id of it. Without `preset`, the plan has the recipe that is stored.

    Raises:
        NotFoundError: it was never payload.
        ConflictError: two instances have a project of this number; name the instance.

    """
    project = models.Project
    query = select(project).where(project.ls_project_id == ls_project_id).order_by(project.instance)
    if instance is not None:
        query = query.where(project.instance == instance.rstrip("/"))
    rows = session.scalars(query).all()
    if not rows:
        where = f" of {instance}" if instance else ""
        raise NotFoundError(
            f"project {ls_project_id}{where} was never seen here; `car label-studio connect` connects it"
        )
    if len(rows) > 1:
        known = ", ".join(row.instance for row in rows)
        raise ConflictError(f"project {ls_project_id} is one of several Label Studios ({known}); name the instance")
    return ResolvedProject(rows[0], _stored_plan(session, rows[0], preset))


def by_key(session: Session, ls_project_key: str) -> models.Project | None:
    """The project that /predict names, which does not say of which instance it is."""
    project = models.Project
    last = func.greatest(project.setup_at, project.predict_at, project.webhook_at, project.created_at)
    query = (
        select(project)
        .where(project.ls_project_key == ls_project_key, project.ls_project_key != "")
        .order_by(last.desc())
        .limit(1)
    )
    return session.scalars(query).one_or_none()


def page(session: Session, *, cursor: str | None, limit: int) -> tuple[list[models.Project], str | None]:
    """Projects, those that were first seen last before the others, with the cursor of the next page."""
    at, project = Cursor("projects"), models.Project
    query = select(project).order_by(project.id.desc()).limit(limit + 1)
    if cursor:
        query = query.where(project.id < at.read_number(cursor))
    rows = session.scalars(query).all()
    return list(rows[:limit]), at.write(rows[limit - 1].id) if len(rows) > limit else None


def _locked(session: Session, payload: ProjectPayload, plan: ProjectConfig) -> models.Project:
    """The row, made where there is none, and this transaction's alone until it ends."""
    project = models.Project
    session.execute(
        insert(project)
        .values(
            instance=payload.instance,
            ls_project_id=payload.ls_project_id,
            label_config=payload.label_config,
            vocabulary_digest=plan.vocabulary_digest,
            region_digest=plan.region_digest,
        )
        .on_conflict_do_nothing(index_elements=["instance", "ls_project_id"])
    )
    query = (
        select(project)
        .where(project.instance == payload.instance, project.ls_project_id == payload.ls_project_id)
        .with_for_update()
    )
    return session.scalars(query.execution_options(populate_existing=True)).one()


def _stored_plan(session: Session, row: models.Project, preset: str | None) -> ProjectConfig:
    if preset is None:
        job = models.Job
        stored = select(models.Recipe).join(job, job.recipe_id == models.Recipe.id).where(job.id == row.job_id)
        recipe = session.scalars(stored).one_or_none()
        preset = str(recipe.document["preset"]) if recipe is not None else "voc"
    return build_project_config(row.label_config, row.extra_params, preset=preset)


def _stored(instance: str, ls_project_id: int) -> Select[Any]:
    """The row, the digest of its job's recipe, and the time."""
    project = models.Project
    return (
        select(project, models.Recipe.digest, func.now())
        .outerjoin(models.Job, models.Job.id == project.job_id)
        .outerjoin(models.Recipe, models.Recipe.id == models.Job.recipe_id)
        .where(project.instance == instance, project.ls_project_id == ls_project_id)
    )


def _is_unchanged(
    row: models.Project,
    recipe: str | None,
    payload: ProjectPayload,
    extra_params: Mapping[str, Any],
    plan: ProjectConfig,
) -> bool:
    return (
        (row.label_config, row.extra_params) == (payload.label_config, extra_params)
        and (row.vocabulary_digest, row.region_digest, recipe)
        == (plan.vocabulary_digest, plan.region_digest, plan.recipe.digest)
        and row.problems == _problems(plan)
        and payload.ls_project_key in ("", row.ls_project_key)
        and payload.title in (None, row.title)
    )


def _store_contact(session: Session, row: models.Project, kind: RequestKind, now: datetime) -> None:
    """Store the time, without waiting for anybody who has the row, nor for the disk."""
    if kind is RequestKind.SYNC:
        return
    last = getattr(row, f"{kind}_at")
    if last is None or last < now - _CONTACT_INTERVAL:
        session.execute(
            text(
                f"UPDATE project SET {kind}_at = now() "  # noqa: S608 - one of three words
                "FROM (SELECT set_config('synchronous_commit', 'off', true)) AS quickly WHERE id IN "
                "(SELECT id FROM project WHERE id = :id FOR NO KEY UPDATE SKIP LOCKED)"
            ),
            {"id": row.id},
        )
        set_committed_value(row, f"{kind}_at", now)


def _problems(plan: ProjectConfig) -> list[dict[str, str]]:
    """As they are stored."""
    return [{"code": one.code, "detail": one.detail} for one in plan.problems]
