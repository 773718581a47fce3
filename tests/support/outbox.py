"""What tests of writing back begin with: a Label Studio with a project, and results that are owed to it."""

import warnings
from datetime import timedelta

import pytest

from db.label_studio import projects
from db.objects import S3ObjectStore
from tests.support.label_studio_rows import ProjectRows, config
from tests.support.rows import segmentation
from worker.label_studio import LabelStudio
from worker.label_studio.publish import Publisher
from worker.pipeline.result_objects import masks_document

LABELS = ("cat", "dog")


class Outbox(ProjectRows):
    """A project that both sides know, by the functions of db/ and the stand-in's own rows."""

    def __init__(self, engine, studio, objects, control="BrushLabels"):
        self.studio, self.objects = studio, objects
        self.number = studio.add_project(config(LABELS, control))
        self.control = control
        super().__init__(engine)

    def note(self, labels=LABELS, *, control=None, preset="demo", **changed):
        place = {"instance": self.studio.url, "ls_project_id": self.number}
        return super().note(labels, control=control or self.control, preset=preset, **place | changed)

    def client(self, **options):
        return LabelStudio(self.studio.url, self.studio.token, **options)

    def enqueue(self, tasks):
        """So many new tasks in Label Studio, their pictures segmented here; the tasks' numbers."""
        numbers = self.studio.add_tasks(self.number, [{}] * tasks)
        for number in numbers:
            self.studio.tasks[number]["data"] = {"image": f"s3://bucket/{number}.jpg"}  # as `ask` has it
        self.ask(*numbers)
        self.finish()
        return numbers

    def result(self, name=None):
        """With its masks in the bucket, as a worker leaves them."""
        made = super().result(name)
        found = masks_document("run", "sha", segmentation(["cat"]), "v1")
        key = self.objects.put("results/masks.json", found, "application/json")
        self.sql("UPDATE result SET masks_key = :key WHERE id = :id", key=key, id=made)
        return made

    def publish(self, client=None, worker="io", *, stop=lambda: False, seconds=60.0, **options):
        """One call of a new publisher, with its own client."""
        with client or self.client() as asked:
            publisher = Publisher(self.engine, self.objects, asked, worker, preset="demo", **options)
            return publisher.publish(stop=stop, seconds=seconds)

    def row(self):
        """The project's row as it is now."""
        return self.do(projects.find, self.number, self.studio.url).row

    def due(self, span=timedelta(hours=1)):
        """Every lease and every wait is over."""
        self.later(span)

    def states(self):
        """How many predictions are in which state here."""
        return dict(self.sql("SELECT state, count(*) FROM prediction GROUP BY state"))

    def by_task(self):
        """Predictions in Label Studio, counted for each of its tasks."""
        return {task: len(self.studio.predictions(task)) for task in self.studio.tasks}

    def agree(self):
        """Both sides tell the same: each task has one prediction there, whose id is known here."""
        here = {row.ls_task_id: row.ls_prediction_id for row in self.predictions() if row.state == "sent"}
        there = {one["task"]: one["id"] for one in self.studio.predictions()}
        assert here == there
        assert set(self.by_task().values()) == {1}

    def render(self):
        """Documents as they are stored when nothing may be sent yet."""
        Publisher(self.engine, self.objects, None, "renderer", preset="demo").publish()


@pytest.fixture
def outbox(rows, label_studio, bucket):
    with warnings.catch_warnings(action="ignore"):  # before threads do; its classes are in pydantic's old style
        import label_studio_sdk.label_interface  # noqa: F401, PLC0415
    return Outbox(rows.engine, label_studio, S3ObjectStore(bucket.client, bucket.name, "car/"))


__all__ = ["LABELS", "Outbox", "outbox"]
