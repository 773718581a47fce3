"""Projects of Label Studio: what each was when last seen, and the job that its tasks belong to."""

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from car.project_plan import ProjectPlan, plan_project
from db import models, project_jobs
from db.cursors import Cursor
from db.errors import Conflict, NotFound
from db.items import storable
from db.project_looks import Known, Seen, Standing, Way, looked_up, problems_of, standing
from db.project_pages import ProjectProgress, TaskView, progress, tasks_page
from db.syncs import SyncClaim, advance, claim_sync, fail_sync, finish_sync, sync_waiting, want_all, want_sync

__all__ = [
    "Known",
    "ProjectProgress",
    "Seen",
    "Standing",
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
    "standing",
    "sync_waiting",
    "tasks_page",
    "want_all",
    "want_sync",
]

UNTOLD = ""
"""The instance of a project whose Label Studio has asked for predictions and not told its address yet."""
# The first finds nothing but in the moment when an address is first told.
_ADOPT = (
    text("""
        UPDATE project SET instance = :instance WHERE instance = :untold AND stamp = :stamp
            AND NOT EXISTS (
                SELECT 1 FROM project AS told WHERE told.instance = :instance AND told.number = project.number
            )
        RETURNING id
    """),
    text("""
        UPDATE job SET source = source || jsonb_build_object('instance', CAST(:instance AS text))
        FROM project WHERE kind = 'label_studio' AND source->>'instance' = :untold AND project.instance = :instance
            AND project.stamp = :stamp AND source->>'project' = CAST(project.number AS text)
        RETURNING job.id
    """),
    text("""
        UPDATE prediction SET instance = :instance FROM project WHERE prediction.instance = :untold
            AND project.instance = :instance AND project.stamp = :stamp AND prediction.project = project.number
        RETURNING prediction.id
    """),
)


def note(session: Session, seen: Seen, *, preset: str) -> Known:
    """Take down what was seen. Other words or another recipe mean another job, whose results come back where a project
    goes back to them; what the job before still had queued is cancelled. Another stamp is another project under the old
    number: tasks and predictions of the old one are forgotten. A look that shows nothing new costs one query.

    Raises:
        LabelingConfigError: the configuration cannot be read; what was known stays. See `refused`.
        RecipeError: extra_params name an unknown setting.
        VocabularyError: a label that no vocabulary can hold.

    """
    found = looked_up(session, seen.instance, seen.number)
    extra_params = seen.extra_params
    if extra_params is None:
        extra_params = found.row.extra_params if found is not None else {}
    plan = plan_project(seen.label_config, extra_params, preset=preset)
    if found is not None and found.is_as(seen, extra_params, plan):
        found.came(session, seen.way)
        return Known(found.row, plan)
    row = _locked(session, seen, plan)
    if seen.stamp and row.stamp and seen.stamp != row.stamp:
        project_jobs.forget(session, row)
    row.stamp = seen.stamp or row.stamp
    row.title = seen.title if seen.title is not None else row.title
    row.label_config, row.extra_params = seen.label_config, dict(extra_params)
    row.words, row.regions = plan.words, plan.regions
    row.problems = problems_of(plan)
    row.job_id = project_jobs.job_of(session, row, plan)
    if seen.way is not Way.SYNC:
        setattr(row, f"{seen.way}_at", func.now())
    session.flush()
    session.refresh(row)
    return Known(row, plan)


def adopt(session: Session, stamp: str, instance: str) -> None:
    """Label Studio tells its address: what it asked before it had told is of it."""
    untold = {"stamp": stamp, "instance": instance, "untold": UNTOLD}
    first, *rest = _ADOPT
    if stamp and instance and session.execute(first, untold).all():
        for change in rest:
            session.execute(change, untold)


def refused(session: Session, seen: Seen, *, code: str, detail: str) -> None:
    """Show on the project's page, where it is known, why its newest configuration cannot be used."""
    found = looked_up(session, seen.instance, seen.number)
    problems = [{"code": code, "detail": storable(detail)}]
    if found is not None and found.row.problems != problems:
        found.row.problems = problems
        session.flush()


def find(session: Session, number: int, instance: str | None = None, *, preset: str | None = None) -> Known:
    """By Label Studio's id of it. Without `preset`, the plan has the recipe that is stored.

    Raises:
        NotFound: it was never seen.
        Conflict: two instances have a project of this number; name the instance.

    """
    project = models.Project
    query = select(project).where(project.number == number).order_by(project.instance)
    if instance is not None:
        query = query.where(project.instance == instance.rstrip("/"))
    rows = session.scalars(query).all()
    if not rows:
        where = f" of {instance}" if instance else ""
        raise NotFound(f"project {number}{where} was never seen here; `car label-studio connect` connects it")
    if len(rows) > 1:
        known = ", ".join(row.instance for row in rows)
        raise Conflict(f"project {number} is one of several Label Studios ({known}); name the instance")
    return Known(rows[0], _stored_plan(session, rows[0], preset))


def by_stamp(session: Session, stamp: str) -> models.Project | None:
    """The project that /predict names, which does not say of which instance it is."""
    project = models.Project
    last = func.greatest(project.setup_at, project.predict_at, project.webhook_at, project.created_at)
    query = select(project).where(project.stamp == stamp, project.stamp != "").order_by(last.desc()).limit(1)
    return session.scalars(query).one_or_none()


def page(session: Session, *, cursor: str | None, limit: int) -> tuple[list[models.Project], str | None]:
    """Projects, those that were first seen last before the others, with the cursor of the next page."""
    at, project = Cursor("projects"), models.Project
    query = select(project).order_by(project.id.desc()).limit(limit + 1)
    if cursor:
        query = query.where(project.id < at.read_number(cursor))
    rows = session.scalars(query).all()
    return list(rows[:limit]), at.write(rows[limit - 1].id) if len(rows) > limit else None


def _locked(session: Session, seen: Seen, plan: ProjectPlan) -> models.Project:
    """The row, made where there is none, and this transaction's alone until it ends."""
    project = models.Project
    session.execute(
        insert(project)
        .values(
            instance=seen.instance,
            number=seen.number,
            label_config=seen.label_config,
            words=plan.words,
            regions=plan.regions,
        )
        .on_conflict_do_nothing(index_elements=["instance", "number"])
    )
    query = select(project).where(project.instance == seen.instance, project.number == seen.number).with_for_update()
    return session.scalars(query.execution_options(populate_existing=True)).one()


def _stored_plan(session: Session, row: models.Project, preset: str | None) -> ProjectPlan:
    if preset is None:
        job = models.Job
        stored = select(models.Recipe).join(job, job.recipe_id == models.Recipe.id).where(job.id == row.job_id)
        recipe = session.scalars(stored).one_or_none()
        preset = str(recipe.document["preset"]) if recipe is not None else "voc"
    return plan_project(row.label_config, row.extra_params, preset=preset)
