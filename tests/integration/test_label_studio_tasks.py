"""Tasks of Label Studio: each becomes an item once, and every finished one is owed to Label Studio once."""

from db import items, jobs, predictions, projects, tasks
from db.items import Failed
from db.models import ItemState, Lane
from db.projects import Way
from db.tasks import Asked
from tests.label_studio_rows import INSTANCE, OTHER_WEIGHTS, WEIGHTS, config
from tests.rows import LEASE, together


def states(answers):
    return [str(one.state) for one in answers]


def test_a_task_is_queued_once_and_owed_once_when_its_picture_is_done(project):
    assert states(project.ask(1, 2)) == ["queued", "queued"]
    assert states(project.ask(2, 3, 1)) == ["queued"] * 3
    [first, second, third] = project.finish()
    assert (first.instance, first.task, first.uri) == (INSTANCE, 1, "s3://bucket/1.jpg")
    owed = project.predictions()
    assert [(row.task, row.state, row.item_id) for row in owed] == [
        (1, "pending", first.id),
        (2, "pending", second.id),
        (3, "pending", third.id),
    ]
    assert states(project.ask(1, 2, 3)) == ["done"] * 3
    assert len(project.predictions()) == 3


def test_the_version_owed_is_the_one_that_setup_answers(project):
    from car.model_version import label_studio_version

    project.ask(1)
    project.finish()
    plan = project.known.plan
    [row] = project.predictions()
    assert row.model_version == label_studio_version(WEIGHTS, plan.recipe, plan.words, plan.regions)
