"""Looks at all tasks of a project: what no webhook told is asked for, page by page, resumed where it stopped."""

import pytest

from db import model_registry
from db.label_studio import project_sync
from tests.support.label_studio_rows import OTHER_WEIGHTS, WEIGHTS, config
from worker.label_studio import LabelStudio
from worker.label_studio.sync import ProjectSync


@pytest.fixture
def sync(outbox):
    """A look at the project that is wanted now; `offered` are the weights that workers told."""

    def look(*, offered=WEIGHTS, client=None, wanted=True, page=3, **options):
        if offered:
            outbox.do(model_registry.register, "*", "*", offered)
        if wanted:
            outbox.do(project_sync.request, outbox.row())
        with client or outbox.client() as asked:
            syncing = ProjectSync(outbox.engine, outbox.objects, asked, "io", "demo", page=page)
            return syncing.sync(**options)

    return look


def pages(outbox):
    return len(outbox.studio.asked("GET", "/api/tasks/"))


def test_tasks_that_nobody_told_are_queued_page_by_page(outbox, sync):
    tasks = outbox.studio.add_tasks(outbox.number, [f"s3://bucket/{number}.jpg" for number in range(8)])
    synced = sync()
    assert (synced.projects, synced.asked, synced.has_more) == (1, 8, False)
    assert pages(outbox) == 3
    assert [(row.ls_task_id, row.uri, row.state) for row in outbox.items_by_task()] == [
        (task, f"s3://bucket/{number}.jpg", "queued") for number, task in enumerate(tasks)
    ]
    row = outbox.row()
    assert (row.sync_wanted_at, row.sync_seen, row.sync_total, row.sync_error) == (None, 8, 8, None)
    assert row.synced_at is not None
    assert sync(wanted=False).projects == 0


def test_the_project_is_taken_down_as_it_is_now(outbox, sync):
    outbox.studio.projects[outbox.number] |= {"title": "New", "label_config": config(("cow",))}
    with outbox.client() as client:
        client.add_backend(
            {"url": "http://car:9090", "project": outbox.number, "extra_params": {"background": ["moon"]}}
        )
    outbox.studio.add_tasks(outbox.number, ["s3://bucket/1.jpg"])
    before = outbox.row().vocabulary_digest
    sync()
    row = outbox.row()
    assert (row.title, row.extra_params) == ("New", {"background": ["moon"]})
    assert row.ls_project_key.startswith(f"{outbox.number}.")
    assert row.vocabulary_digest != before


def test_only_tasks_without_the_present_version_are_asked_for(outbox, sync):
    known = outbox.enqueue(4)
    outbox.publish()
    [new] = outbox.studio.add_tasks(outbox.number, ["s3://bucket/new.jpg"])
    assert sync().asked == 1
    assert {row.ls_task_id: row.state for row in outbox.items_by_task()} == {
        **dict.fromkeys(known, "done"),
        new: "queued",
    }
    assert sync(offered=OTHER_WEIGHTS).asked == 5


def test_what_was_deleted_there_goes_out_again(outbox, sync):
    gone, kept = outbox.enqueue(2)
    outbox.publish()
    outbox.studio.stored = {one["id"]: one for one in outbox.studio.predictions(kept)}
    sync()  # it may have been sent while Label Studio listed its tasks
    assert outbox.states() == {"sent": 2}
    outbox.due()
    sync()
    assert outbox.states() == {"sent": 1, "pending": 1}
    outbox.publish()
    outbox.agree()
    assert len(outbox.studio.predictions(gone)) == 1


def test_before_any_worker_told_its_weights_every_task_is_asked_for(outbox, sync):
    outbox.enqueue(2)
    outbox.publish()
    assert sync(offered=None).asked == 2
    assert outbox.states() == {"sent": 2}


def test_a_look_that_is_stopped_goes_on_from_its_cursor(outbox, sync):
    tasks = outbox.studio.add_tasks(outbox.number, [f"s3://bucket/{number}.jpg" for number in range(8)])
    assert sync(seconds=0.0).has_more
    row = outbox.row()
    assert (row.sync_cursor, row.sync_seen, row.sync_total) == (tasks[2], 3, 8)
    assert sync(wanted=False).asked == 5
    assert pages(outbox) == 3
    assert outbox.row().sync_seen == 8


def test_a_look_whose_worker_died_goes_on_after_its_lease(outbox, sync):
    outbox.studio.add_tasks(outbox.number, [f"s3://bucket/{number}.jpg" for number in range(8)])

    class Dying(LabelStudio):
        def tasks(self, project, **options):
            if options["after"]:
                raise SystemExit
            return super().tasks(project, **options)

    with pytest.raises(SystemExit):
        sync(client=Dying(outbox.studio.url, outbox.studio.token))
    assert sync(wanted=False).projects == 0
    outbox.sql("UPDATE project SET lease_expires_at = now() - interval '1 s'")
    assert sync(wanted=False).asked == 5
    assert len(outbox.items_by_task()) == 8


def test_tasks_deleted_and_added_meanwhile_shift_no_other_out_of_sight(outbox, sync):
    tasks = outbox.studio.add_tasks(outbox.number, [f"s3://bucket/{number}.jpg" for number in range(6)])
    sync(seconds=0.0)
    outbox.studio.delete_task(tasks[0])
    outbox.studio.delete_task(tasks[1])
    sync(wanted=False)
    assert [row.ls_task_id for row in outbox.items_by_task()] == tasks


def test_a_task_without_a_picture_is_explained_and_stops_no_other(outbox, sync):
    bad, good = outbox.studio.add_tasks(outbox.number, [{"text": "no picture"}, "s3://bucket/1.jpg"])
    sync()
    by_task = {row.ls_task_id: (row.state, row.error_code) for row in outbox.items_by_task()}
    assert by_task == {bad: ("failed", "source_invalid"), good: ("queued", None)}


def test_a_project_that_is_gone_ends_the_look_and_says_so(outbox, sync):
    del outbox.studio.projects[outbox.number]
    assert sync().projects == 1
    row = outbox.row()
    assert row.sync_error.startswith("project_missing: ")
    assert row.sync_wanted_at is None


def test_a_configuration_that_cannot_be_used_is_shown(outbox, sync):
    outbox.studio.projects[outbox.number]["label_config"] = "<View><Text name='t' value='$t'/></View>"
    sync()
    row = outbox.row()
    assert row.sync_error.startswith("labeling_config_invalid: ")
    assert "labeling_config_invalid" in {one["code"] for one in row.problems}


def test_a_label_studio_that_is_away_is_asked_again_later(outbox, sync):
    outbox.studio.add_tasks(outbox.number, ["s3://bucket/1.jpg"])
    outbox.studio.fail("GET", "/api/projects", status=502, times=1)
    sync()
    row = outbox.row()
    assert row.sync_error.startswith("label_studio_unreachable: ")
    assert row.sync_wanted_at is not None
    assert sync(wanted=False).projects == 0
    outbox.sql("UPDATE project SET available_at = now()")
    assert sync(wanted=False).asked == 1
    assert outbox.row().sync_error is None
