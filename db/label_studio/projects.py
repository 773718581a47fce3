"""Label Studio projects: the newest known configuration of each, and the job that its tasks belong to."""

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
from db import model_registry, models
from db.errors import ConflictError, NotFoundError
from db.label_studio import project_jobs
from db.leases import storable
from db.pagination import Cursor

UNKNOWN_INSTANCE = ""
"""The instance of a project whose Label Studio has requested predictions but not sent its address yet."""
_CONTACT_INTERVAL = timedelta(seconds=5)
"""Label Studio sends several requests for one click; the time of the last one is written this often at most."""


class RequestKind(StrEnum):
    """Which request described a project."""

    SETUP = "setup"
    PREDICT = "predict"
    WEBHOOK = "webhook"
    SYNC = "sync"


@dataclass(frozen=True, kw_only=True)
class ProjectPayload:
    """A project as a request of Label Studio, or its API, describes it."""

    instance: str
    ls_project_id: int
    label_config: str
    ls_project_key: str = ""
    """Empty where the request does not contain it: the stored one applies."""
    title: str | None = None
    """None: as stored."""
    extra_params: Mapping[str, Any] | None = None
    """None: as stored."""
    kind: RequestKind


@dataclass(frozen=True)
class ResolvedProject:
    """A project's row, and what its configuration means."""

    row: models.Project
    config: ProjectConfig
    weights: Mapping[str, str] | None = None
    """Weights of the models that would compute its results; None if not looked up, or before any worker registered."""


# The first statement matches only in the moment in which an address becomes known.
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
            AND project.ls_project_key = :key AND source->>'ls_project_id' = CAST(project.ls_project_id AS text)
    """),
    text("""
        UPDATE prediction SET instance = :instance FROM project WHERE prediction.instance = :unknown
            AND project.instance = :instance AND project.ls_project_key = :key
            AND prediction.ls_project_id = project.ls_project_id
    """),
)


def find_unchanged(session: Session, payload: ProjectPayload, *, preset: str) -> ResolvedProject | None:
    """Return a project and its weights in one round trip; None if the payload changes more than the time of contact.
    It needs no transaction. Raises the errors of `upsert`.
    """
    query = _stored(payload).add_columns(model_registry.all_entries())
    stored = session.execute(query).one_or_none()
    if stored is None or stored[0].label_config != payload.label_config:
        return None
    row, recipe, now, entries = stored
    extra_params = row.extra_params if payload.extra_params is None else payload.extra_params
    config = build_project_config(payload.label_config, extra_params, preset=preset)
    if not _is_unchanged(row, recipe, payload, extra_params, config):
        return None
    _store_contact(session, row, payload.kind, now)
    return ResolvedProject(row, config, model_registry.match_weights(entries, config.recipe))


def upsert(session: Session, payload: ProjectPayload, *, preset: str) -> ResolvedProject:
    """Store a project's configuration. Another vocabulary or recipe means another job: items that the previous job has
    queued are cancelled, and results come back when the project returns to it. Another key means another project
    under a reused id: tasks and predictions of the old one are forgotten. An unchanged payload costs one query.

    Raises:
        LabelingConfigError: the configuration cannot be read; the stored one stays. See `record_problem`.
        RecipeError: extra_params name an unknown setting.
        VocabularyError: a label that no vocabulary can hold, or that has more tokens than CLIP reads.

    """
    stored = session.execute(_stored(payload)).one_or_none()
    extra_params = payload.extra_params
    if extra_params is None:
        extra_params = stored[0].extra_params if stored is not None else {}
    config = build_project_config(payload.label_config, extra_params, preset=preset)
    if stored is not None and _is_unchanged(stored[0], stored[1], payload, extra_params, config):
        _store_contact(session, stored[0], payload.kind, stored[2])
        return ResolvedProject(stored[0], config)
    if config.vocabulary is not None:
        model_registry.check_tokens(session, config.vocabulary, config.recipe)
    row = _lock(session, payload, config)
    if payload.ls_project_key and row.ls_project_key and payload.ls_project_key != row.ls_project_key:
        project_jobs.forget(session, row)
    row.ls_project_key = payload.ls_project_key or row.ls_project_key
    row.title = payload.title if payload.title is not None else row.title
    row.label_config, row.extra_params = payload.label_config, dict(extra_params)
    row.vocabulary_digest, row.region_digest = config.vocabulary_digest, config.region_digest
    row.problems = _problems(config)
    row.job_id = project_jobs.job_for(session, row, config)
    if payload.kind is not RequestKind.SYNC:
        setattr(row, f"{payload.kind}_at", func.now())
    session.flush()
    session.refresh(row)
    return ResolvedProject(row, config)


def set_instance(session: Session, ls_project_key: str, instance: str) -> None:
    """Move what a Label Studio requested before its address was known to that address."""
    values = {"key": ls_project_key, "instance": instance, "unknown": UNKNOWN_INSTANCE}
    first, *others = _SET_INSTANCE
    if ls_project_key and instance and session.execute(first, values).all():
        for change in others:
            session.execute(change, values)


def record_problem(session: Session, payload: ProjectPayload, *, code: str, detail: str) -> None:
    """Store why a known project's newest configuration cannot be used, for the project's page."""
    stored = session.execute(_stored(payload)).one_or_none()
    problems = [{"code": code, "detail": storable(detail)}]
    if stored is not None and stored[0].problems != problems:
        stored[0].problems = problems
        session.flush()


def find(
    session: Session, ls_project_id: int, instance: str | None = None, *, preset: str | None = None
) -> ResolvedProject:
    """Return a project by Label Studio's id. Without `preset`, the configuration has the stored recipe's. Raises
    NotFoundError, or ConflictError if several instances have a project with this id.
    """
    project = models.Project
    query = select(project).where(project.ls_project_id == ls_project_id).order_by(project.instance)
    if instance is not None:
        query = query.where(project.instance == instance.rstrip("/"))
    rows = session.scalars(query).all()
    if not rows:
        where = f" of {instance}" if instance else ""
        raise NotFoundError(f"project {ls_project_id}{where} is not connected; run `car label-studio connect`")
    if len(rows) > 1:
        instances = ", ".join(row.instance for row in rows)
        raise ConflictError(f"several Label Studio instances ({instances}) have a project {ls_project_id}; name one")
    [row] = rows
    if preset is None:
        job, recipe = models.Job, models.Recipe
        stored = select(recipe.document).join(job, job.recipe_id == recipe.id).where(job.id == row.job_id)
        document = session.scalar(stored)
        preset = str(document["preset"]) if document is not None else "voc"
    return ResolvedProject(row, build_project_config(row.label_config, row.extra_params, preset=preset))


def by_key(session: Session, ls_project_key: str) -> models.Project | None:
    """Return the project that /predict names, which does not contain the instance."""
    project = models.Project
    last = func.greatest(project.setup_at, project.predict_at, project.webhook_at, project.created_at)
    query = select(project).where(project.ls_project_key == ls_project_key, project.ls_project_key != "")
    return session.scalar(query.order_by(last.desc()).limit(1))


def page(session: Session, *, cursor: str | None, limit: int) -> tuple[list[models.Project], str | None]:
    """Return projects, the newest first, and the cursor of the next page."""
    at, project = Cursor("projects"), models.Project
    query = select(project).order_by(project.id.desc()).limit(limit + 1)
    if cursor:
        query = query.where(project.id < at.read_number(cursor))
    rows = session.scalars(query).all()
    return list(rows[:limit]), at.write(rows[limit - 1].id) if len(rows) > limit else None


def _lock(session: Session, payload: ProjectPayload, config: ProjectConfig) -> models.Project:
    """Lock the row until the transaction ends, inserted if there is none."""
    project = models.Project
    new = insert(project).values(
        instance=payload.instance,
        ls_project_id=payload.ls_project_id,
        label_config=payload.label_config,
        vocabulary_digest=config.vocabulary_digest,
        region_digest=config.region_digest,
    )
    session.execute(new.on_conflict_do_nothing(index_elements=["instance", "ls_project_id"]))
    same = (project.instance == payload.instance, project.ls_project_id == payload.ls_project_id)
    query = select(project).where(*same).with_for_update()
    return session.scalars(query.execution_options(populate_existing=True)).one()


def _stored(payload: ProjectPayload) -> Select[Any]:
    """Select the row, the digest of its job's recipe, and the time."""
    project = models.Project
    return (
        select(project, models.Recipe.digest, func.now())
        .outerjoin(models.Job, models.Job.id == project.job_id)
        .outerjoin(models.Recipe, models.Recipe.id == models.Job.recipe_id)
        .where(project.instance == payload.instance, project.ls_project_id == payload.ls_project_id)
    )


def _is_unchanged(
    row: models.Project,
    recipe: str | None,
    payload: ProjectPayload,
    extra_params: Mapping[str, Any],
    config: ProjectConfig,
) -> bool:
    return (
        (row.label_config, row.extra_params) == (payload.label_config, extra_params)
        and (row.vocabulary_digest, row.region_digest, recipe)
        == (config.vocabulary_digest, config.region_digest, config.recipe.digest)
        and row.problems == _problems(config)
        and payload.ls_project_key in ("", row.ls_project_key)
        and payload.title in (None, row.title)
    )


def _store_contact(session: Session, row: models.Project, kind: RequestKind, now: datetime) -> None:
    """Store the time of contact without waiting for the row's lock or for the disk."""
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


def _problems(config: ProjectConfig) -> list[dict[str, str]]:
    return [{"code": problem.code, "detail": problem.detail} for problem in config.problems]
