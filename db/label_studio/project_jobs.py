"""The job of a project's present words and recipe. Each has one; a project that goes back to former words finds its
former job, with what was done.
"""

import json
from uuid import UUID

from sqlalchemy import func, text
from sqlalchemy.orm import Session

from car.label_studio.project_config import ProjectConfig
from car.vocabulary import Vocabulary
from db import models, vocabularies
from db.models import JobKind, Priority
from db.queue import jobs
from db.queue.jobs import NewJob

EACH_ITS_OWN = Vocabulary.of(["(each task has its own words)"], background="none")
"""Stands for the job's vocabulary where every item has one of its own. Nothing is ever segmented with it."""

_FIND = text("""
    SELECT id FROM job
    WHERE vocabulary_id = :vocabulary AND recipe_id = :recipe AND kind = 'label_studio'
        AND source = CAST(:source AS jsonb)
    ORDER BY id DESC LIMIT 1
""")

_CANCEL_QUEUED = text("""
    WITH queued AS (SELECT id FROM item WHERE job_id = :job AND state = 'queued' ORDER BY id FOR UPDATE)
    UPDATE item SET state = 'cancelled', finished_at = now() FROM queued WHERE item.id = queued.id
""")

_LOCK_ALL = text("""
    SELECT id FROM job WHERE kind = 'label_studio' AND source @> CAST(:of AS jsonb) ORDER BY id FOR UPDATE
""")

_FORGET_PREDICTIONS = text("""
    WITH theirs AS (
        SELECT id FROM prediction WHERE instance = :instance AND ls_project_id = :project
        ORDER BY instance, ls_project_id, ls_task_id, model_version FOR UPDATE
    )
    DELETE FROM prediction USING theirs WHERE prediction.id = theirs.id
""")


def job_of(session: Session, project: models.Project, plan: ProjectConfig) -> UUID:
    """The job for this plan; what the one before has queued is cancelled. The project's row is locked by the caller."""
    vocabulary = vocabularies.get_or_create(session, plan.vocabulary or EACH_ITS_OWN)
    recipe = vocabularies.get_or_create_recipe(session, plan.recipe)
    source = _of(project) | {"kind": "label_studio", "stamp": project.ls_project_key, "words": plan.vocabulary_digest}
    wanted = {"vocabulary": vocabulary, "recipe": recipe, "source": json.dumps(source)}
    found: UUID | None = session.scalar(_FIND, wanted)
    if found is None and project.job_id is not None:
        found = _named_late(session, project, wanted)
    if found is None:
        new = NewJob(
            kind=JobKind.LABEL_STUDIO,
            priority=Priority.BULK,
            source=source,
            vocabulary_id=vocabulary,
            recipe_id=recipe,
            name=project.title,
        )
        found = jobs.create(session, new)[0].id
    if project.job_id is not None and found != project.job_id:
        _cancel_queued(session, project.job_id)
    return found


def forget(session: Session, project: models.Project) -> None:
    """It is another project under an old number, of a Label Studio that was set up anew: what is known of tasks by
    their numbers is wrong. Results stay, for they belong to pictures.
    """
    for job in session.scalars(_LOCK_ALL, {"of": json.dumps(_of(project))}).all():
        session.execute(_CANCEL_QUEUED, {"job": job})
        session.execute(text("DELETE FROM task WHERE job_id = :job"), {"job": job})
    session.execute(_FORGET_PREDICTIONS, {"instance": project.instance, "project": project.ls_project_id})
    session.execute(text("DELETE FROM annotation WHERE project_id = :id"), {"id": project.id})
    project.sync_wanted_at = project.worker = project.lease_expires_at = project.sync_cursor = None
    project.sync_total = project.sync_error = project.synced_at = None
    project.sync_seen = project.failure_count = 0
    project.available_at = func.now()


def _named_late(session: Session, project: models.Project, wanted: dict[str, object]) -> UUID | None:
    """The present job, where the project's key was not known when it was made: now it is."""
    renamed: UUID | None = session.scalar(
        text(
            "UPDATE job SET source = CAST(:source AS jsonb) WHERE id = :job AND vocabulary_id = :vocabulary "
            'AND recipe_id = :recipe AND source || \'{"stamp": ""}\' = source '
            "AND source - 'stamp' = CAST(:source AS jsonb) - 'stamp' RETURNING id"
        ),
        wanted | {"job": project.job_id},
    )
    return renamed


def _cancel_queued(session: Session, job: UUID) -> None:
    session.execute(text("SELECT 1 FROM job WHERE id = :job FOR UPDATE"), {"job": job})
    session.execute(_CANCEL_QUEUED, {"job": job})


def _of(project: models.Project) -> dict[str, object]:
    return {"instance": project.instance, "project": project.ls_project_id}
