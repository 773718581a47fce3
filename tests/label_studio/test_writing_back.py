"""Each prediction reaches Label Studio once, however badly it goes."""

import time

import pytest

from tests.label_studio.labels import config
from tests.label_studio.scenes import scenes
from tests.label_studio.user import eventually

pytestmark = pytest.mark.timeout(1500)

SCENES = scenes(30)
SECONDS = 600


def rendered(labeler, project, count):
    """Once every mask is computed, and nothing needs to be done but to write them back."""
    eventually(lambda: labeler.project(project)["items"], lambda states: states.get("done", 0) == count, SECONDS)


def numbers(user, project):
    return sorted(one["task"] for one in user.predictions(project))


def test_a_writer_that_is_killed_again_and_again_doubles_nothing_and_loses_nothing(user, labeler):
    project = user.project(config("Brush"), title="killed")
    labeler.connect(project)
    with labeler.worker_stopped("io"):
        tasks = user.upload(project, [(one.name, one.content) for one in SCENES])
        rendered(labeler, project, len(tasks))
    for reached in (3, 15):
        eventually(lambda: numbers(user, project), lambda found, wanted=reached: len(found) >= wanted, SECONDS)
        labeler.kill_io_worker()
    eventually(lambda: labeler.project(project)["predictions"], lambda states: states["sent"] == len(tasks), SECONDS)
    assert numbers(user, project) == sorted(tasks)


def test_a_task_that_is_gone_when_its_prediction_is_sent_is_given_up(user, labeler):
    project = user.project(config("Brush"), title="gone")
    labeler.connect(project)
    (hook,) = user.webhooks(project)
    with labeler.worker_stopped("io"):
        tasks = user.upload(project, [(one.name, one.content) for one in SCENES[:4]])
        rendered(labeler, project, len(tasks))
        user.ask("PATCH", f"/api/webhooks/{hook['id']}/", json={"is_active": False})  # nobody tells us
        user.ask("DELETE", f"/api/tasks/{tasks[0]}/")
    states = eventually(lambda: labeler.project(project)["predictions"], lambda states: not states["pending"], SECONDS)
    assert (states["sent"], states["orphaned"], states["failed"]) == (3, 1, 0)
    assert numbers(user, project) == sorted(tasks[1:])


def test_a_task_that_takes_the_number_of_a_deleted_one_gets_masks_of_its_own_picture(user, labeler):
    """Label Studio's SQLite gives the newest numbers out again."""
    project = user.project(config("Brush"), title="again")
    labeler.connect(project)
    first, second = SCENES[:2]
    (task,) = user.upload(project, [(first.name, first.content)])
    eventually(lambda: numbers(user, project), lambda found: found == [task], SECONDS)
    before = user.predictions(project)[0]["result"]
    user.ask("DELETE", f"/api/tasks/{task}/")
    time.sleep(1)
    (again,) = user.upload(project, [(second.name, second.content)])
    (prediction,) = eventually(lambda: user.predictions(project), lambda found: len(found) == 1, SECONDS)
    assert (again, prediction["task"]) == (task, task)
    assert prediction["result"] != before


def test_a_prediction_that_was_deleted_comes_again_when_it_is_asked_for(user, labeler):
    project = user.project(config("Brush"), title="deleted")
    labeler.connect(project)
    tasks = user.upload(project, [(one.name, one.content) for one in SCENES[:2]])
    eventually(lambda: numbers(user, project), lambda found: found == sorted(tasks), SECONDS)
    gone = user.predictions(project)[0]
    user.ask("DELETE", f"/api/predictions/{gone['id']}/")

    def again():
        user.retrieve(project)  # at first Label Studio may only not have seen it yet; then it is believed
        time.sleep(10)
        return numbers(user, project)

    assert eventually(again, lambda found: len(found) >= len(tasks), SECONDS) == sorted(tasks)
