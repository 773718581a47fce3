"""Projects of Label Studio: what was seen is kept, other words are another job, and what was done comes back."""

from contextlib import suppress
from datetime import timedelta

import pytest
from sqlalchemy import event

from db import model_registry
from db.errors import ConflictError, NotFoundError
from db.label_studio import outbox, project_queries, project_sync, projects
from db.label_studio.outbox import complete_items
from db.label_studio.projects import ProjectPayload, RequestKind
from db.label_studio.tasks import TaskSubmission
from db.models import ItemState, PredictionState
from db.queue import items, jobs
from db.queue.items import FailedItem
from tests.support.label_studio_rows import INSTANCE, OTHER_WEIGHTS, WEIGHTS, config
from tests.support.rows import LEASE, together

ELSEWHERE = "http://elsewhere:8080"


def states(answers):
    return [str(entry.state) for entry in answers]


def test_a_project_has_a_job_that_nobody_lists(project):
    [job] = project.sql("SELECT * FROM job")
    assert (job.id, job.kind, job.listed_at is None) == (project.known.row.job_id, "label_studio", False)
    assert (job.source["instance"], job.source["ls_project_id"]) == (INSTANCE, 7)
    with pytest.raises(ConflictError, match="car label-studio sync"):
        project.do(jobs.rescan, job.id)


def test_the_first_two_who_see_a_project_at_once_see_one(rows):
    seen = ProjectPayload(instance=INSTANCE, ls_project_id=7, label_config=config(), kind=RequestKind.SETUP)
    actual = together(*(lambda: rows.do(projects.upsert, seen, preset="demo") for _ in range(6)))
    assert len({entry.row.id for entry in actual}) == len({entry.row.job_id for entry in actual}) == 1
    assert rows.sql("SELECT count(*) FROM job") == [(1,)]


def test_a_look_that_shows_nothing_new_costs_one_query(project):
    message = []
    event.listen(project.engine, "before_cursor_execute", lambda *given: message.append(given[2]))
    project.note()
    assert len(message) == 1
    project.note(kind=RequestKind.PREDICT)
    assert [line.split()[0] for line in message] == ["SELECT", "SELECT", "UPDATE"]


def test_each_way_leaves_its_time(project):
    for way in RequestKind:
        project.note(kind=way)
    row = project.note().row
    assert None not in (row.setup_at, row.predict_at, row.webhook_at)
    before = row.setup_at
    project.sql("UPDATE project SET setup_at = now() - interval '1 min'")
    assert project.note().row.setup_at >= before


def test_other_words_are_another_job_and_former_words_find_theirs_again(project):
    project.ask(1, 2, 3)
    project.finish(limit=2)
    first = project.known
    second = project.note(labels=("cat", "bird"))
    assert second.row.job_id != first.row.job_id
    assert project.sql("SELECT state FROM item ORDER BY id") == [("done",), ("done",), ("cancelled",)]
    assert states(project.ask(1, known=second)) == ["queued"]
    third = project.note()
    assert third.row.job_id == first.row.job_id
    assert states(project.ask(1, 2, 3, known=third)) == ["done", "done", "queued"]
    assert project.sql("SELECT count(*) FROM job") == [(2,)]


def test_a_project_whose_stored_words_are_those_of_an_earlier_release_follows_at_the_next_request(project):
    labels = '<Label value="yellow square" hint="brush" alias="1_brush"/>'
    before = project.note(
        label_config=config().replace('<Label value="cat"/>', labels.replace("yellow square", "brush"))
    )
    project.ask(1, known=before)
    seen = {"label_config": config().replace('<Label value="cat"/>', labels)}
    # As it was stored while a hint was asked: this configuration, with the words of another.
    project.sql("UPDATE project SET label_config = :label_config", **seen)
    after = project.note(**seen)
    assert after.row.vocabulary_digest != before.row.vocabulary_digest
    assert after.row.job_id != before.row.job_id
    assert after.config.base.labels[0].prompts == ("yellow square",)
    assert project.sql("SELECT state FROM item") == [("cancelled",)]
    assert states(project.ask(1, known=after)) == ["queued"]


def test_another_recipe_is_another_job(project):
    changed = project.note(extra_params={"set": {"theta": 0.9}})
    assert changed.row.job_id != project.known.row.job_id
    assert changed.row.extra_params == {"set": {"theta": 0.9}}
    # None: as stored; the same preset under another name changes nothing.
    assert project.note(extra_params=None).row.job_id == changed.row.job_id


def test_a_result_that_ends_after_the_words_changed_is_not_owed(project):
    project.ask(1, 2)
    [first, second] = project.do(items.claim, "gpu", limit=2, lease=LEASE)
    project.do(complete_items, "gpu", [items.CompletedItem(first, project.result_of(first), reused=False)])
    assert len(project.predictions()) == 1
    project.note(labels=("bird",))
    assert project.do(complete_items, "gpu", [items.CompletedItem(second, project.result_of(second), reused=False)])
    # What was owed before is dropped when a publisher comes to it.
    assert project.do(outbox.claim, "io", limit=9, lease=LEASE, instance=INSTANCE) == []
    assert project.predictions() == []
    # Back to the first words: both are done, and owed now.
    project.ask(1, 2, known=project.note())
    assert [row.ls_task_id for row in project.predictions()] == [1, 2]


def test_words_and_stamps_that_change_while_everybody_works_stop_nobody(project):
    def cancel():
        with suppress(ConflictError):  # where it has ended just now
            project.do(jobs.cancel, project.known.row.job_id)

    for number in range(4):
        changes = [
            lambda: project.note(labels=("bird",)),
            lambda number=number: project.note(ls_project_key=f"7.{number}", control="PolygonLabels"),
            cancel,
        ]
        asks = [lambda: project.ask(*range(60), max_document_bytes=10**6, missing=True) for _ in range(2)]
        claims = [lambda: project.do(outbox.claim, "io", limit=20, lease=LEASE, instance=INSTANCE)] * 2
        together(*changes, *asks, *claims, project.finish, lambda: project.do(jobs.close))
        project.known = project.note()
    project.ask(*range(60))
    project.finish()
    assert states(project.ask(*range(60))) == ["done"] * 60


def test_other_regions_are_another_version_of_the_same_results(project):
    project.ask(1)
    project.finish()
    changed = project.note(control="PolygonLabels")
    assert changed.row.job_id == project.known.row.job_id
    assert states(project.ask(1, known=changed)) == ["done"]
    versions = [row.model_version for row in project.predictions()]
    assert len(versions) == 2
    [outgoing] = project.do(outbox.claim, "io", limit=9, lease=LEASE, instance=INSTANCE)
    assert outgoing.model_version == versions[1]
    assert "PolygonLabels" in outgoing.label_config


def test_a_superseded_prediction_that_was_tried_is_looked_for_when_its_words_return(project):
    project.ask(1)
    project.finish()
    [tried] = project.do(outbox.claim, "io", limit=9, lease=LEASE, instance=INSTANCE)
    project.note(labels=("bird",))
    project.later()
    assert project.do(outbox.claim, "io", limit=9, lease=LEASE, instance=INSTANCE) == []
    [row] = project.predictions()
    assert (row.state, row.error_code) == ("failed", "superseded")
    back = project.note()
    assert project.do(project_queries.progress, back.row, weights=WEIGHTS).predictions[PredictionState.FAILED] == 0
    project.ask(1, known=back)
    [again] = project.do(outbox.claim, "io", limit=9, lease=LEASE, instance=INSTANCE)
    assert again.attempt > tried.attempt


def test_another_stamp_is_another_project_under_the_old_number(project):
    project.ask(1, 2)
    project.finish(limit=1)
    named = project.note(ls_project_key="7.1000")
    assert named.row.job_id == project.known.row.job_id
    assert project.do(projects.by_key, "7.1000").id == named.row.id
    assert project.do(projects.by_key, "") is None
    assert project.note(ls_project_key="").row.ls_project_key == "7.1000"
    other = project.note(ls_project_key="7.2000")
    assert other.row.job_id != named.row.job_id
    assert project.do(projects.by_key, "7.1000") is None
    assert (project.predictions(), project.sql("SELECT * FROM task")) == ([], [])
    assert project.sql("SELECT state FROM item ORDER BY id") == [("done",), ("cancelled",)]
    assert states(project.ask(1, known=other)) == ["queued"]


def test_projects_are_found_by_number_and_instance(project):
    assert project.do(projects.find, 7).config.vocabulary_digest == project.known.config.vocabulary_digest
    with pytest.raises(NotFoundError, match="connect"):
        project.do(projects.find, 8)
    project.note(instance=ELSEWHERE)
    with pytest.raises(ConflictError, match=ELSEWHERE):
        project.do(projects.find, 7)
    assert project.do(projects.find, 7, ELSEWHERE + "/").row.instance == ELSEWHERE
    actual = project.do(projects.find, 7, INSTANCE, preset="voc")
    assert actual.config.recipe.preset == "voc"
    [newer], cursor = project.do(projects.page, cursor=None, limit=1)
    [older], end = project.do(projects.page, cursor=cursor, limit=1)
    assert (newer.instance, older.instance, end) == (ELSEWHERE, INSTANCE, None)


def test_a_configuration_that_cannot_be_used_is_shown_until_one_can(project):
    seen = ProjectPayload(instance=INSTANCE, ls_project_id=7, label_config="<View/>", kind=RequestKind.SETUP)
    project.do(projects.record_problem, seen, code="labeling_config_invalid", detail="no Image tag")
    assert project.do(projects.find, 7).row.problems == [{"code": "labeling_config_invalid", "detail": "no Image tag"}]
    assert project.note().row.problems == []
    project.do(
        projects.record_problem, ProjectPayload(**vars(seen) | {"ls_project_id": 8}), code="x", detail="never seen"
    )


def test_progress_counts_tasks_and_says_why_some_failed(project):
    project.ask(
        1,
        2,
        3,
        4,
        TaskSubmission(ls_task_id=5, uri="s3://bucket/1.jpg"),
        TaskSubmission(ls_task_id=6, refused=("source_invalid", "none")),
    )
    project.finish(limit=1)
    [failing] = project.do(items.claim, "gpu", limit=1, lease=LEASE)
    project.do(items.fail, "gpu", [FailedItem(failing, "image_unreadable", "no PNG", retryable=False)])
    [first, second] = project.do(outbox.claim, "io", limit=9, lease=LEASE, instance=INSTANCE)
    project.do(outbox.mark_sent, "io", first, 11)
    project.do(outbox.fail, "io", second, code="prediction_invalid", detail="unknown label")
    project.do(model_registry.register, "*", "*", WEIGHTS)
    seen = project.do(project_queries.progress, project.known.row)
    assert (seen.tasks, seen.items[ItemState.DONE], seen.items[ItemState.QUEUED]) == (6, 2, 2)
    assert seen.predictions == dict.fromkeys(PredictionState, 0) | {PredictionState.SENT: 1, PredictionState.FAILED: 1}
    reported = [(entry.code, entry.count, entry.example, entry.ls_task_id) for entry in seen.failed]
    assert reported == [("image_unreadable", 1, "no PNG", 2), ("source_invalid", 1, "none", 6)]
    assert [(entry.code, entry.ls_task_id) for entry in seen.unsent] == [("prediction_invalid", 5)]
    assert seen.model_version == first.model_version
    assert (
        project.do(project_queries.progress, project.known.row, weights=OTHER_WEIGHTS).model_version
        != first.model_version
    )


def test_tasks_come_page_by_page_with_what_became_of_them(project):
    project.ask(*range(1, 6))
    project.finish(limit=2)
    [entry, _] = project.do(outbox.claim, "io", limit=9, lease=LEASE, instance=INSTANCE)
    project.do(outbox.mark_sent, "io", entry, 11)
    row, cursor, shown = project.known.row, None, []
    for _ in range(3):
        page, cursor = project.do(project_queries.tasks_page, row, state=None, cursor=cursor, limit=2)
        shown += page
    assert cursor is None
    assert [view.ls_task_id for view in shown] == [1, 2, 3, 4, 5]
    assert [view.state for view in shown] == [ItemState.DONE] * 2 + [ItemState.QUEUED] * 3
    assert [view.prediction_state for view in shown[:3]] == [PredictionState.SENT, PredictionState.PENDING, None]
    assert (shown[0].ls_prediction_id, shown[0].model_version, shown[0].uri) == (
        11,
        entry.model_version,
        "s3://bucket/1.jpg",
    )
    done, end = project.do(project_queries.tasks_page, row, state=ItemState.DONE, cursor=None, limit=2)
    assert ([view.ls_task_id for view in done], end) == ([1, 2], None)


def test_a_look_at_all_tasks_is_one_workers_and_goes_on_where_it_stopped(project):
    def claim(worker, lease=LEASE):
        return project.do(project_sync.claim, worker, lease, instance=INSTANCE)

    row = project.known.row
    assert claim("io") is None
    project.do(project_sync.request, row)
    assert project.do(project_sync.waiting, instance=INSTANCE)
    assert not project.do(project_sync.waiting, instance=ELSEWHERE)
    sync = claim("io", timedelta(0))
    assert (sync.ls_project_id, sync.cursor, sync.seen) == (7, None, 0)
    assert project.do(project_sync.advance, "io", sync, cursor=500, seen=500, total=900, lease=timedelta(0))
    taken = claim("other")
    assert (taken.cursor, taken.seen) == (500, 500)
    assert not project.do(project_sync.advance, "io", sync, cursor=900, seen=400, total=900, lease=LEASE)
    assert not project.do(project_sync.finish, "io", sync)
    project.do(project_sync.request, row)
    assert claim("io") is None, "wanted again while it goes on, it goes on"
    assert project.do(project_sync.finish, "other", taken)
    actual = project.note().row
    assert (actual.sync_wanted_at, actual.synced_at is None, actual.sync_seen, actual.sync_total) == (
        None,
        False,
        500,
        900,
    )


def test_a_look_that_fails_is_tried_again_a_few_times(project):
    def claim():
        project.sql("UPDATE project SET lease_expires_at = NULL, available_at = now()")
        return project.do(project_sync.claim, "io", LEASE, instance=INSTANCE)

    row = project.known.row
    project.do(project_sync.request, row)
    for number in range(8):
        sync = claim()
        assert project.note().row.failure_count == number
        project.do(project_sync.fail, "io", sync, code="label_studio_unreachable", detail="away", retryable=True)
        assert not project.do(project_sync.waiting, instance=INSTANCE)
    assert claim() is None
    assert project.note().row.sync_error == "label_studio_unreachable: away"
    project.do(project_sync.request, row)
    project.do(project_sync.fail, "io", claim(), code="label_studio_refused", detail="401", retryable=False)
    assert claim() is None


def test_somebody_who_wants_a_look_does_not_wait_for_the_next_try(project):
    row = project.known.row
    project.do(project_sync.request, row)
    sync = project.do(project_sync.claim, "io", LEASE, instance=INSTANCE)
    project.do(project_sync.fail, "io", sync, code="label_studio_unreachable", detail="away", retryable=True)
    assert not project.do(project_sync.waiting, instance=INSTANCE)
    project.do(project_sync.request, row)
    assert project.do(project_sync.waiting, instance=INSTANCE)


def test_every_so_often_all_projects_of_the_instance_are_looked_at(project):
    project.note(instance=ELSEWHERE)
    hour = timedelta(hours=1)
    assert project.do(project_sync.request_all, instance=INSTANCE, interval=hour) == 0
    project.sql("UPDATE project SET created_at = now() - interval '2 h', available_at = now() - interval '2 h'")
    assert project.do(project_sync.request_all, instance=INSTANCE, interval=hour) == 1
    assert project.do(project_sync.request_all, instance=INSTANCE, interval=hour) == 0
    sync = project.do(project_sync.claim, "io", LEASE, instance=INSTANCE)
    project.do(project_sync.finish, "io", sync)
    assert project.do(project_sync.request_all, instance=INSTANCE, interval=hour) == 0
