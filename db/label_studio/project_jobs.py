"""The job of a project's present vocabulary and recipe. A project that returns to an earlier vocabulary or recipe finds
its earlier job with all results.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from car.label_studio.project_config import ProjectConfig
from car.vocabulary import Vocabulary
from db import models, vocabularies
from db.label_studio.outbox import OUTBOX
from db.models import Job, JobKind, Priority
from db.queue import jobs
from db.queue.jobs import NewJob

PLACEHOLDER_VOCABULARY = Vocabulary.from_words(["(each task has its own words)"], background="none")
"""The job's vocabulary where every item has its own. Nothing is segmented with it."""

_CANCEL_QUEUED = text("""
    WITH queued AS (SELECT id FROM item WHERE job_id = :job AND state = 'queued' ORDER BY id FOR UPDATE)
    UPDATE item SET state = 'cancelled', finished_at = now() FROM queued WHERE item.id = queued.id
""")

_DELETE_PREDICTIONS = text(f"""
    WITH forgotten AS (
        SELECT id FROM prediction WHERE instance = :instance AND ls_project_id = :ls_project_id
        {OUTBOX.order_by} FOR UPDATE
    )
    DELETE FROM prediction USING forgotten WHERE prediction.id = forgotten.id
""")  # noqa: S608 - made of its own constants


def job_for(session: Session, project: models.Project, config: ProjectConfig) -> UUID:
    """Return the job of this configuration, created if there is none, and cancel what the job before has queued. The
    caller has locked the project's row.
    """
    vocabulary = vocabularies.get_or_create(session, config.vocabulary or PLACEHOLDER_VOCABULARY)
    recipe = vocabularies.get_or_create_recipe(session, config.recipe)
    source = project_source(project) | {
        "kind": "label_studio",
        "ls_project_key": project.ls_project_key,
        "vocabulary_digest": config.vocabulary_digest,
    }
    same = (Job.vocabulary_id == vocabulary, Job.recipe_id == recipe, Job.kind == "label_studio")
    job_id = session.scalar(select(Job.id).where(*same, Job.source == source).order_by(Job.id.desc()).limit(1))
    if job_id is None and project.job_id is not None:
        # The present job, where the project's key was not known when it was created.
        without_key = Job.source == source | {"ls_project_key": ""}
        named = update(Job).where(Job.id == project.job_id, *same, without_key).values(source=source)
        job_id = session.scalar(named.returning(Job.id))
    if job_id is None:
        new = NewJob(
            kind=JobKind.LABEL_STUDIO,
            priority=Priority.BULK,
            source=source,
            vocabulary_id=vocabulary,
            recipe_id=recipe,
            name=project.title,
        )
        job_id = jobs.create(session, new)[0].id
    if project.job_id is not None and job_id != project.job_id:
        session.execute(select(Job.id).where(Job.id == project.job_id).with_for_update())
        session.execute(_CANCEL_QUEUED, {"job": project.job_id})
    return job_id


def lock_all(session: Session, project: models.Project) -> Sequence[UUID]:
    """Lock the jobs of all configurations that the project has had, and return their ids."""
    query = select(Job.id).where(Job.kind == "label_studio", Job.source.contains(project_source(project)))
    return session.scalars(query.order_by(Job.id).with_for_update(key_share=True)).all()


def forget(session: Session, project: models.Project) -> None:
    """Forget tasks, predictions and annotations: a Label Studio that was set up anew reuses the ids for another
    project. Results stay, because they belong to images.
    """
    for job in lock_all(session, project):
        session.execute(_CANCEL_QUEUED, {"job": job})
        session.execute(text("DELETE FROM task WHERE job_id = :job"), {"job": job})
    session.execute(_DELETE_PREDICTIONS, project_source(project))
    session.execute(text("DELETE FROM annotation WHERE project_id = :id"), {"id": project.id})
    project.sync_wanted_at = project.worker = project.lease_expires_at = project.sync_cursor = None
    project.sync_total = project.sync_error = project.synced_at = None
    project.sync_seen = project.failure_count = 0
    project.available_at = func.now()


def project_source(project: models.Project) -> dict[str, object]:
    """Return the part of `job.source` that all jobs of a project share."""
    return {"instance": project.instance, "ls_project_id": project.ls_project_id}
