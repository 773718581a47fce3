"""Lost answers, sleeping publishers and several at once: each task has one prediction in the end."""

import json
import threading
import time
from datetime import timedelta

import pytest

from db.label_studio.outbox import DUPLICATE_CHECK_AFTER
from tests.support.rows import together
from worker.label_studio import LabelStudio
from worker.maintenance import run_maintenance


@pytest.mark.parametrize("drop", ["after", "before"])
def test_a_dropped_connection_neither_loses_nor_doubles(outbox, drop):
    outbox.enqueue(3)
    outbox.studio.fail("POST", "/api/predictions/", drop=drop, times=2)
    assert outbox.publish().counts == {"rendered": 3, "rescheduled": 2, "sent": 1}
    uncertain = [row for row in outbox.predictions() if row.state == "pending"]
    assert {row.error_code for row in uncertain} == {"outcome_uncertain"}
    # It may still be on its way into Label Studio's database.
    assert all(row.available_at > row.attempted_at + timedelta(seconds=59) for row in uncertain)
    assert outbox.publish().counts == {}
    outbox.due()
    assert outbox.publish().counts == {"sent": 2}
    outbox.agree()


def test_a_slow_server_that_stores_after_nobody_waits_is_looked_for_first(outbox):
    outbox.enqueue(2)
    outbox.studio.fail("POST", "/api/predictions/", delay=1.0, times=2)
    assert outbox.publish(outbox.client(read_seconds=0.3)).counts["rescheduled"] == 2
    stored_by = time.monotonic() + 20
    while len(outbox.studio.predictions()) < 2:
        assert time.monotonic() < stored_by
        time.sleep(0.05)
    outbox.due()
    assert outbox.publish().counts == {"sent": 2}
    assert len(outbox.studio.asked("POST", "/api/predictions/")) == 2
    outbox.agree()


def test_doubles_that_are_found_are_deleted_but_for_the_oldest(outbox):
    [task] = outbox.enqueue(1)
    outbox.studio.fail("POST", "/api/predictions/", drop="after", times=1)
    outbox.publish()
    [first] = outbox.studio.predictions(task)
    version = first["model_version"]
    with outbox.client() as client:
        text = json.dumps({"model_version": version, "result": []})
        client.create_prediction(task, text)
        client.create_prediction(task, text)
        other = client.create_prediction(task, json.dumps({"model_version": "somebody's", "result": []}))
    outbox.due()
    assert outbox.publish().counts == {"sent": 1}
    assert [one["id"] for one in outbox.studio.predictions(task)] == [first["id"], other.id]
    assert [row.ls_prediction_id for row in outbox.predictions()] == [first["id"]]


def test_two_publishers_at_once_send_each_row_once(outbox):
    outbox.enqueue(40)
    made = together(*(lambda name=name: outbox.publish(worker=name) for name in ("one", "two", "three")))
    assert sum(one.counts["sent"] for one in made) == 40
    assert len(outbox.studio.asked("POST", "/api/predictions/")) == 40
    outbox.agree()


def test_a_publisher_that_sleeps_past_its_lease_leaves_one_prediction(outbox):
    """Frozen between its POST and the record of it, while another one sends the same row."""
    outbox.enqueue(1)
    reached, go_on = threading.Event(), threading.Event()

    class Frozen(LabelStudio):
        def create_prediction(self, task, document):
            stored = super().create_prediction(task, document)
            reached.set()
            go_on.wait(30)
            return stored

    frozen = Frozen(outbox.studio.url, outbox.studio.token)
    thread = threading.Thread(target=outbox.publish, args=(frozen, "frozen"))
    thread.start()
    assert reached.wait(30)
    outbox.due()
    assert outbox.publish(worker="other").counts == {"sent": 1}
    go_on.set()
    thread.join()
    outbox.agree()


def test_a_publisher_that_sleeps_before_its_post_takes_its_double_back(outbox):
    outbox.enqueue(1)
    reached, go_on = threading.Event(), threading.Event()

    class Frozen(LabelStudio):
        def create_prediction(self, task, document):
            reached.set()
            go_on.wait(30)
            return super().create_prediction(task, document)

    counts = []
    frozen = Frozen(outbox.studio.url, outbox.studio.token)
    thread = threading.Thread(target=lambda: counts.append(outbox.publish(frozen, "frozen").counts))
    thread.start()
    assert reached.wait(30)
    outbox.due()
    assert outbox.publish(worker="other").counts == {"sent": 1}
    go_on.set()
    thread.join()
    assert counts[0]["late"] == 1
    assert len(outbox.studio.asked("POST", "/api/predictions/")) == 2
    outbox.agree()


def test_two_that_sleep_across_each_others_posts_leave_it_to_a_third(outbox):
    """Each posts while the other one holds the row; who deletes what is decided by whoever comes next."""
    outbox.enqueue(1)
    first, second, go_on = threading.Event(), threading.Event(), threading.Event()

    class Frozen(LabelStudio):
        def __init__(self, reached):
            super().__init__(outbox.studio.url, outbox.studio.token)
            self.reached = reached

        def create_prediction(self, task, document):
            self.reached.set()
            go_on.wait(30)
            return super().create_prediction(task, document)

    threads = []
    for name, reached in (("first", first), ("second", second)):
        threads.append(threading.Thread(target=outbox.publish, args=(Frozen(reached), name)))
        threads[-1].start()
        assert reached.wait(30)
        outbox.due()
    go_on.set()
    for thread in threads:
        thread.join()
    outbox.due()
    outbox.publish(worker="third")
    outbox.agree()


def test_a_late_sender_deletes_nothing_that_another_may_have_found(outbox):
    """One sleeps after its POST; another finds that prediction and sleeps before it records it; the first wakes."""
    outbox.enqueue(1)
    posted, found, first_goes_on, second_goes_on = (threading.Event() for _ in range(4))

    class Sender(LabelStudio):
        def create_prediction(self, task, document):
            stored = super().create_prediction(task, document)
            posted.set()
            first_goes_on.wait(30)
            return stored

    class Finder(LabelStudio):
        def predictions(self, **place):
            stored = super().predictions(**place)
            found.set()
            second_goes_on.wait(30)
            return stored

    threads = []
    for client, reached in ((Sender, posted), (Finder, found)):
        known = client(outbox.studio.url, outbox.studio.token)
        threads.append(threading.Thread(target=outbox.publish, args=(known, client.__name__)))
        threads[-1].start()
        assert reached.wait(30)
        outbox.due()
    first_goes_on.set()
    threads[0].join()
    second_goes_on.set()
    threads[1].join()
    outbox.due()
    outbox.publish(worker="third")
    outbox.agree()
    assert len(outbox.studio.asked("POST", "/api/predictions/")) == 1


class KilledError(BaseException):
    """Nothing of this code sees it, as nothing sees SIGKILL."""


def doomed_sender(outbox):
    """A publisher that sleeps before its POST until its lease is over. What wakes it: it posts, and is killed."""
    reached, go_on = threading.Event(), threading.Event()

    class Doomed(LabelStudio):
        def create_prediction(self, task, document):
            reached.set()
            go_on.wait(30)
            super().create_prediction(task, document)
            raise KilledError

    def doomed():
        with pytest.raises(KilledError):
            outbox.publish(Doomed(outbox.studio.url, outbox.studio.token), "doomed")

    def wake():
        go_on.set()
        thread.join()

    thread = threading.Thread(target=doomed)
    thread.start()
    assert reached.wait(30)
    outbox.due()
    return wake


def test_a_sender_that_sleeps_past_its_lease_and_is_killed_after_its_post_leaves_one_prediction_in_the_end(outbox):
    outbox.enqueue(1)
    wake = doomed_sender(outbox)
    assert outbox.publish(worker="other").counts == {"sent": 1}
    wake()
    assert len(outbox.studio.predictions()) == 2
    outbox.later(timedelta(minutes=9))
    outbox.publish()
    assert len(outbox.studio.predictions()) == 2  # it may still be on its way
    outbox.later(timedelta(minutes=1))
    outbox.publish()
    outbox.agree()


def store_late(outbox):
    """A POST whose sender is dead comes to be stored."""
    [there] = outbox.studio.predictions()
    with outbox.client() as client:
        text = json.dumps({"model_version": there["model_version"], "result": there["result"]})
        return client.create_prediction(there["task"], text).id


def uncertain(outbox):
    """Sent by the second attempt; nobody knows what became of the first."""
    outbox.enqueue(1)
    outbox.studio.fail("POST", "/api/predictions/", drop="before", times=1)
    outbox.publish()
    outbox.due()
    assert outbox.publish().counts == {"sent": 1}


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_a_post_that_is_stored_hours_late_is_found_and_deleted(outbox, looks):
    uncertain(outbox)
    for wait in DUPLICATE_CHECK_AFTER[: looks - 1]:
        outbox.later(wait)
        outbox.publish()
    store_late(outbox)
    outbox.later(DUPLICATE_CHECK_AFTER[looks - 1])
    outbox.publish()
    outbox.agree()


def test_looks_come_to_an_end(outbox):
    uncertain(outbox)
    before = len(outbox.studio.asked("GET", "/api/predictions/"))
    for _ in range(5):
        outbox.later(timedelta(days=2))
        outbox.publish()
    assert len(outbox.studio.asked("GET", "/api/predictions/")) == before + len(DUPLICATE_CHECK_AFTER)
    assert [row.next_duplicate_check_at for row in outbox.predictions()] == [None]


def test_what_was_sent_at_once_is_not_looked_for_again(outbox):
    outbox.enqueue(3)
    outbox.publish()
    outbox.later(timedelta(days=2))
    outbox.publish()
    assert outbox.studio.asked("GET", "/api/predictions/") == []


def test_what_label_studio_got_as_an_answer_is_looked_for_when_a_publisher_had_it_too(outbox):
    """Frozen before its POST, while /predict answered with the same; killed after it."""
    [task] = outbox.enqueue(1)
    wake = doomed_sender(outbox)
    [row] = outbox.predictions()
    assert outbox.ask(task, max_document_bytes=10**6)[0].document is not None
    with outbox.client() as client:  # as Label Studio stores its backends' answers
        stored = client.create_prediction(task, json.dumps({"model_version": row.model_version, "result": []})).id
    wake()
    outbox.later(DUPLICATE_CHECK_AFTER[0])
    outbox.publish()
    assert [one["id"] for one in outbox.studio.predictions()] == [stored]


def test_a_second_look_at_a_deleted_task_finds_nothing_to_do(outbox):
    uncertain(outbox)
    outbox.studio.tasks.clear()
    outbox.studio.stored.clear()
    outbox.later(DUPLICATE_CHECK_AFTER[0])
    assert outbox.publish().counts == {}
    assert outbox.states() == {"sent": 1}


def test_a_second_look_that_fails_leaves_it_to_the_next(outbox):
    uncertain(outbox)
    store_late(outbox)
    outbox.studio.fail("GET", "/api/predictions/", status=500, times=1)
    outbox.later(DUPLICATE_CHECK_AFTER[0])
    outbox.publish()
    assert len(outbox.studio.predictions()) == 2
    outbox.later(DUPLICATE_CHECK_AFTER[1])
    outbox.publish()
    outbox.agree()


def test_second_looks_alone_are_reason_enough_to_ring(outbox):
    uncertain(outbox)
    assert not run_maintenance(outbox.engine, instance=outbox.studio.url).has_predictions
    outbox.later(DUPLICATE_CHECK_AFTER[0])
    assert run_maintenance(outbox.engine, instance=outbox.studio.url).has_predictions
    assert not run_maintenance(outbox.engine).has_predictions
