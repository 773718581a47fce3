"""What tests of Label Studio's rows begin with: a project, its tasks, results of them."""

import hashlib
from datetime import timedelta

import pytest

from car.model_version import CODE_VERSION, _models
from car.presets import preset
from car.vocabulary import Vocabulary
from db import vocabularies
from db.label_studio import projects, tasks
from db.label_studio.outbox import complete_items
from db.label_studio.projects import ProjectPayload, RequestKind
from db.label_studio.tasks import TaskSubmission
from db.queue import items
from db.queue.items import CompletedItem
from tests.support.rows import LEASE, Rows

INSTANCE = "http://label-studio:8080"
WEIGHTS = {"proposal": "f" * 64, "classifier": "a" * 64}
OTHER_WEIGHTS = {"proposal": "0" * 64, "classifier": "a" * 64}


def config(labels=("cat", "dog"), control="BrushLabels"):
    shown = "".join(f'<Label value="{label}"/>' for label in labels)
    return f'<View><Image name="image" value="$image"/><{control} name="tag" toName="image">{shown}</{control}></View>'


class ProjectRows(Rows):
    """A database with a project of Label Studio in it, by the functions of db/: each call is a transaction."""

    def __init__(self, engine):
        super().__init__(engine)
        self.known = self.note()

    def note(self, labels=("cat", "dog"), *, control="BrushLabels", preset="demo", **changed):
        seen = {
            "instance": INSTANCE,
            "ls_project_id": 7,
            "label_config": config(labels, control),
            "kind": RequestKind.SETUP,
        }
        return self.do(projects.upsert, ProjectPayload(**seen | changed), preset=preset)

    def ask(self, *numbers, known=None, weights=WEIGHTS, **more):
        asked = [
            one if isinstance(one, TaskSubmission) else TaskSubmission(ls_task_id=one, uri=f"s3://bucket/{one}.jpg")
            for one in numbers
        ]
        return self.do(tasks.submit, known or self.known, asked, weights=weights, **more)

    def finish(self, *, weights=WEIGHTS, worker="gpu", limit=10_000):
        """Everything that is queued comes to an end; the items that did."""
        claimed = self.do(items.claim, worker, limit=limit, lease=LEASE)
        for one in claimed:
            self.do(complete_items, worker, [CompletedItem(one, self.result_of(one, weights), reused=False)])
        return claimed

    def result_of(self, item, weights=WEIGHTS):
        """The result that a worker with these weights makes of an item: one for a picture, words and weights."""
        words = self.do(vocabularies.get, item.vocabulary_id).digest
        recipe = self.do(vocabularies.recipe, item.recipe_id).digest
        version = f"car-{CODE_VERSION}+{_models(weights)[:8]}.{recipe[:8]}.{words[:8]}"
        name = f"{item.uri} {version}"
        known = self.sql(
            "SELECT id FROM result WHERE run_key = :key", key=hashlib.sha256(f"run {name}".encode()).hexdigest()
        )
        made = known[0].id if known else self.result(name)
        self.sql(
            "UPDATE result SET model_version = :version, weights = CAST(:weights AS jsonb) WHERE id = :id",
            version=version,
            weights=str(weights).replace("'", '"'),
            id=made,
        )
        return made

    def predictions(self):
        return self.sql("SELECT * FROM prediction ORDER BY instance, ls_project_id, ls_task_id, id")

    def later(self, span=timedelta(seconds=121)):
        """So much time passes for predictions."""
        self.sql(
            "UPDATE prediction SET sent_at = sent_at - :span, attempted_at = attempted_at - :span, "
            "lease_expires_at = lease_expires_at - :span, available_at = available_at - :span, "
            "next_duplicate_check_at = next_duplicate_check_at - :span",
            span=span,
        )

    def items_by_task(self):
        query = (
            "SELECT task.ls_task_id, item.* FROM task JOIN item ON item.id = task.item_id "
            "WHERE task.job_id = :job ORDER BY 1"
        )
        return self.sql(query, job=self.known.row.job_id)


@pytest.fixture
def project(rows):
    return ProjectRows(rows.engine)


__all__ = [
    "INSTANCE",
    "OTHER_WEIGHTS",
    "WEIGHTS",
    "ProjectRows",
    "Vocabulary",
    "config",
    "preset",
    "project",
]
