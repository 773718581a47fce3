"""A project is connected, tasks come in, and each gets its masks once: with every kind of control."""

import time

import numpy as np
import pytest

from tests.label_studio.labels import config
from tests.label_studio.scenes import box, drawn, iou, scenes
from tests.label_studio.user import eventually

pytestmark = pytest.mark.timeout(1200)

SCENES = scenes(50)
ARRIVAL_SECONDS = 600


def predicted(user, labeler, kind, count):
    """A connected project with so many tasks, when each has a prediction: its number and its pictures by task."""
    project = user.project(config(kind), title=kind)
    said = labeler.connect(project)
    assert "ML backend" in said
    chosen = SCENES[:count]
    tasks = user.upload(project, [(one.name, one.content) for one in chosen])
    arrived(user, project, count)
    return project, dict(zip(tasks, chosen, strict=True))


def arrived(user, project, count):
    eventually(lambda: user.predictions(project), lambda found: len(found) >= count, ARRIVAL_SECONDS)


def once_each(user, project, tasks):
    """The predictions by task. Raises: AssertionError, where a task has none or two."""
    found = user.predictions(project)
    assert sorted(one["task"] for one in found) == sorted(tasks)
    return {one["task"]: one for one in found}


@pytest.mark.parametrize(
    ("kind", "count", "agreement"),
    [("Brush", 50, 0.6), ("Bitmask", 12, 0.6), ("Polygon", 12, 0.6), ("Rectangle", 12, 0.6)],
)
def test_every_task_gets_one_prediction_that_lies_on_its_objects(user, labeler, kind, count, agreement):
    project, by_task = predicted(user, labeler, kind, count)
    found = once_each(user, project, by_task)
    assert {one["model_version"] for one in found.values()} == {labeler.project(project)["model_version"]}
    agreements = []
    for task, picture in by_task.items():
        masks = drawn(found[task]["result"])
        for word in picture.scene.words:
            truth = box(picture.truth(word)) if kind == "Rectangle" else picture.truth(word)
            agreements.append(iou(masks.get(word, np.zeros_like(truth)), truth))
    assert np.mean(agreements) > agreement


def test_choices_say_what_is_in_the_picture(user, labeler):
    project, by_task = predicted(user, labeler, "Choices", 12)
    found = once_each(user, project, by_task)
    said = {task: {w for r in one["result"] for w in r["value"]["choices"]} for task, one in found.items()}
    right = sum(len(said[task] & set(picture.scene.words)) for task, picture in by_task.items())
    assert right / sum(len(picture.scene.words) for picture in by_task.values()) > 0.7


def test_retrieve_predictions_answers_at_once_and_doubles_nothing(user, labeler):
    project = user.project(config("Brush"), title="retrieve")
    labeler.connect(project)
    tasks = user.upload(project, [(one.name, one.content) for one in SCENES[:20]])
    began = time.monotonic()
    user.retrieve(project)
    user.retrieve(project)
    assert time.monotonic() - began < 10  # nobody waited for a mask
    arrived(user, project, len(tasks))
    user.retrieve(project)
    time.sleep(3)
    once_each(user, project, tasks)


def test_a_thousand_tasks_are_answered_within_a_second_while_no_worker_lives(user, labeler):
    project = user.project(config("Brush"), title="thousand")
    labeler.connect(project)
    with labeler.worker_stopped("gpu"), labeler.worker_stopped("io"):
        tasks = user.import_tasks(project, [f"https://pictures.example/{number}.png" for number in range(1000)])
        eventually(lambda: labeler.project(project)["tasks"], lambda known: known == len(tasks))
        before = len(labeler.requests("/predict"))
        user.retrieve(project)
        # The log comes a moment after the answer.
        (answered,) = eventually(lambda: labeler.requests("/predict")[before:], bool)
        everything = {"selectedItems": {"all": True, "excluded": []}, "project": project}
        user.ask("POST", "/api/dm/actions", params={"id": "delete_tasks", "project": project}, json=everything)
        eventually(lambda: labeler.project(project)["tasks"], lambda known: known == 0)
    assert answered["status"] == 200
    assert answered["ms"] < 1000


def test_tasks_that_were_there_before_the_project_was_connected_are_backfilled(user, labeler):
    project = user.project(config("Brush"), title="backfill")
    tasks = user.upload(project, [(one.name, one.content) for one in SCENES[:6]])
    labeler.connect(project)
    said = labeler.car("label-studio", "backfill", "--project", str(project), "--use")
    assert "every task has a prediction" in said
    once_each(user, project, tasks)
    shown = user.ask("GET", f"/api/projects/{project}/")["model_version"]
    assert shown == labeler.project(project)["model_version"]


def test_other_words_are_another_version_with_predictions_of_its_own(user, labeler):
    project = user.project(config("Brush"), title="words")
    labeler.connect(project)
    tasks = user.upload(project, [(one.name, one.content) for one in SCENES[:4]])
    arrived(user, project, len(tasks))
    before = labeler.project(project)["model_version"]
    user.change(project, label_config=config("Brush", ("red circle", "blue star", "green square")))
    labeler.car("label-studio", "backfill", "--project", str(project))
    after = labeler.project(project)["model_version"]
    assert after != before
    told = sorted((one["task"], one["model_version"]) for one in user.predictions(project))
    assert told == sorted((task, version) for task in tasks for version in (before, after))
