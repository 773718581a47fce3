"""Tasks of Label Studio: each becomes an item once, and every finished one is owed to Label Studio once."""

from car.model_version import label_studio_version
from car.vocabulary import Vocabulary
from db import vocabularies
from db.label_studio import outbox, tasks
from db.label_studio.outbox import complete_items
from db.label_studio.tasks import TaskSubmission
from db.models import ItemState, Priority
from db.queue import items, jobs
from db.queue.items import FailedItem
from tests.support.label_studio_rows import INSTANCE, OTHER_WEIGHTS, WEIGHTS
from tests.support.rows import LEASE, together


def states(answers):
    return [str(entry.state) for entry in answers]


def test_a_task_is_queued_once_and_owed_once_when_its_picture_is_done(project):
    assert states(project.ask(1, 2)) == ["queued", "queued"]
    assert states(project.ask(2, 3, 1)) == ["queued"] * 3
    [first, second, third] = project.finish()
    assert (first.instance, first.ls_task_id, first.uri) == (INSTANCE, 1, "s3://bucket/1.jpg")
    owed = project.predictions()
    assert [(row.ls_task_id, row.state, row.item_id) for row in owed] == [
        (1, "pending", first.id),
        (2, "pending", second.id),
        (3, "pending", third.id),
    ]
    assert states(project.ask(1, 2, 3)) == ["done"] * 3
    assert len(project.predictions()) == 3


def test_the_version_owed_is_the_one_that_setup_answers(project):
    project.ask(1)
    project.finish()
    config = project.known.config
    [row] = project.predictions()
    assert row.model_version == label_studio_version(
        WEIGHTS, config.recipe, config.vocabulary_digest, config.region_digest
    )


def test_tasks_of_one_picture_share_an_item_and_have_a_prediction_each(project):
    both = [
        TaskSubmission(ls_task_id=5, uri="s3://bucket/same.jpg"),
        TaskSubmission(ls_task_id=4, uri="s3://bucket/same.jpg"),
    ]
    assert [entry.ls_task_id for entry in project.ask(*both)] == [5, 4]
    assert len(project.finish()) == 1
    assert [row.ls_task_id for row in project.predictions()] == [4, 5]
    # A third one that comes when it is done is owed at once.
    [third] = project.ask(TaskSubmission(ls_task_id=6, uri="s3://bucket/same.jpg"))
    assert (third.state, third.document) == (ItemState.DONE, None)
    assert [row.ls_task_id for row in project.predictions()] == [4, 5, 6]


def test_a_task_that_comes_while_its_picture_ends_is_owed_all_the_same(project):
    project.ask(1)
    [claimed] = project.do(items.claim, "gpu", limit=1, lease=LEASE)
    result = project.result_of(claimed)
    for number in range(2, 30):
        other = TaskSubmission(ls_task_id=number, uri="s3://bucket/1.jpg")
        project.sql("UPDATE item SET state = 'running', worker = 'gpu', attempt = 1, result_id = NULL")
        together(
            lambda: project.do(complete_items, "gpu", [items.CompletedItem(claimed, result, reused=True)]),
            lambda other=other: project.ask(other),
        )
        assert [row.ls_task_id for row in project.predictions()] == list(range(1, number + 1))


def test_many_who_ask_for_the_same_tasks_at_once_neither_double_nor_stop_each_other(project):
    numbers = list(range(1, 120))
    forwards = [lambda: project.ask(*numbers) for _ in range(3)]
    backwards = [
        lambda: project.ask(*reversed(numbers), priority=Priority.INTERACTIVE, max_document_bytes=10**6)
        for _ in range(2)
    ]
    alone = [
        lambda: project.do(
            tasks.submit_interactive, project.known, TaskSubmission(ls_task_id=9, uri="s3://bucket/9.jpg")
        )
    ]
    again = [lambda: project.note(title="renamed"), lambda: project.do(jobs.close)]
    together(*forwards, *backwards, *alone, *again, project.finish, lambda: project.finish(worker="other"))
    project.finish()
    project.ask(*numbers)
    assert project.sql("SELECT count(*), count(DISTINCT uri) FROM item") == [(119, 119)]
    assert [row.ls_task_id for row in project.predictions()] == numbers


def test_a_task_with_another_picture_has_another_item_and_goes_out_anew(project):
    project.ask(1)
    project.finish()
    before = project.ask(1)[0].result_id
    [outgoing] = project.do(outbox.claim, "io", limit=9, lease=LEASE, instance=INSTANCE)
    assert states(project.ask(TaskSubmission(ls_task_id=1, uri="s3://bucket/other.jpg"))) == ["queued"]
    assert project.do(outbox.mark_sent, "io", outgoing, 31)
    [claimed] = project.finish()
    assert claimed.uri == "s3://bucket/other.jpg"
    [row] = project.predictions()
    assert (row.state, row.item_id, row.document) == ("pending", claimed.id, None)
    assert row.result_id not in (None, before)
    [again] = project.do(outbox.claim, "io", limit=9, lease=LEASE, instance=INSTANCE)
    assert (again.replaces, again.attempt > outgoing.attempt) == (31, True)
    # Back to the first picture: known, and the one that is on its way is fenced off.
    assert states(project.ask(1)) == ["done"]
    assert not project.do(outbox.mark_sent, "io", again, 32)


def test_what_is_pending_of_a_former_picture_is_never_sent(project):
    project.ask(1)
    project.finish()
    project.ask(TaskSubmission(ls_task_id=1, uri="s3://bucket/other.jpg"))
    assert project.do(outbox.claim, "io", limit=9, lease=LEASE, instance=INSTANCE) == []
    assert project.predictions() == []


def test_a_refused_task_is_a_failed_item_that_says_why(project):
    refused = ("source_invalid", 'the task has no "image"; it has "text" \0')
    entry = project.ask(TaskSubmission(ls_task_id=1, refused=refused), TaskSubmission(ls_task_id=2, refused=refused))[0]
    assert (entry.state, entry.error_code, entry.error_detail) == (
        "failed",
        refused[0],
        refused[1].replace("\0", "\\0"),
    )
    [row, other] = project.items_by_task()
    assert (row.uri, row.attempt, row.id != other.id) == ("task 1", 0, True)
    [again] = project.ask(TaskSubmission(ls_task_id=1, refused=("vocabulary_invalid", "no words")))
    assert (again.error_code, again.error_detail) == ("vocabulary_invalid", "no words")
    assert project.do(jobs.retry, project.known.row.job_id) == 0
    assert states(project.ask(1)) == ["queued"]
    assert len(project.items_by_task()) == 2


def test_an_address_that_no_index_holds_is_refused(project):
    odd = ["", "s3://bucket/" + 3000 * "x", "s3://bucket/\0", "s3://bucket/\ud800"]
    answers = project.ask(*(TaskSubmission(ls_task_id=number, uri=uri) for number, uri in enumerate(odd)))
    assert {(entry.state, entry.error_code) for entry in answers} == {("failed", "source_invalid")}


def test_failed_items_stay_failed_and_those_that_may_do_by_now_go_again(project):
    project.ask(1, 2)
    claimed = project.do(items.claim, "gpu", limit=2, lease=LEASE)
    project.do(items.fail, "gpu", [FailedItem(entry, "image_unreadable", "no", retryable=False) for entry in claimed])
    assert states(project.ask(1, 2)) == ["failed", "failed"]
    project.sql("UPDATE item SET failure_count = 6, error_code = 'store_unreachable' WHERE ls_task_id = 2")
    assert states(project.ask(1, 2)) == ["failed", "failed"]
    project.sql("UPDATE item SET finished_at = now() - interval '6 min'")
    assert states(project.ask(1, 2)) == ["failed", "queued"]


def test_cancelled_ones_are_queued_again_and_the_job_goes_on(project):
    project.ask(1, 2)
    project.finish(limit=1)
    project.do(jobs.cancel, project.known.row.job_id)
    assert states(project.ask(1, 2, 3)) == ["done", "queued", "queued"]
    [job] = project.sql("SELECT * FROM job")
    assert (job.cancelled_at, job.finished_at, job.item_counts) == (None, None, None)


def test_a_finished_job_is_reopened_by_new_tasks_alone(project):
    project.ask(1)
    project.finish()
    assert project.do(jobs.close) == 1
    project.ask(1)
    assert project.sql("SELECT finished_at IS NULL AS open FROM job") == [(False,)]
    project.ask(2)
    assert project.sql("SELECT finished_at IS NULL AND item_counts IS NULL AS open FROM job") == [(True,)]
    project.finish()
    assert project.do(jobs.close) == 1
    assert project.sql("SELECT item_counts ->> 'done' FROM job") == [("2",)]


def test_somebody_who_waits_moves_an_item_forward(project):
    project.ask(*range(1, 50))
    project.ask(40, priority=Priority.INTERACTIVE)
    alone = project.do(tasks.submit_interactive, project.known, TaskSubmission(ls_task_id=30, uri="s3://bucket/30.jpg"))
    claimed = project.do(items.claim, "gpu", limit=2, lease=LEASE)
    assert sorted(entry.ls_task_id for entry in claimed) == [30, 40]
    assert alone in [entry.id for entry in claimed]
    project.ask(40)
    assert project.sql("SELECT priority FROM item WHERE ls_task_id = 40") == [(0,)]


def test_an_item_asked_alone_is_owed_to_nobody(project):
    words = project.do(vocabularies.get_or_create, Vocabulary.from_words(["left cat"]))
    asked = TaskSubmission(ls_task_id=1, uri="s3://bucket/1.jpg", vocabulary_id=words)
    item = project.do(tasks.submit_interactive, project.known, asked, weights=WEIGHTS)
    assert project.do(tasks.submit_interactive, project.known, asked, weights=WEIGHTS) == item
    [claimed] = project.finish()
    assert (claimed.id, claimed.vocabulary_id) == (item, words)
    status = project.do(tasks.status_of, item)
    assert (status.ls_task_id, status.state, status.document) == (1, "done", None)
    assert status.result_id is not None
    assert project.predictions() == []
    assert project.items_by_task() == []


def test_results_of_other_weights_are_made_again(project):
    project.ask(1)
    project.finish(weights=OTHER_WEIGHTS)
    assert states(project.ask(1, weights=None)) == ["done"]
    assert states(project.ask(1, weights=OTHER_WEIGHTS)) == ["done"]
    assert states(project.ask(1)) == ["queued"]
    project.finish()
    assert states(project.ask(1)) == ["done"]
    assert len({row.model_version for row in project.predictions()}) == len(project.predictions()) == 2
