"""Predictions reach Label Studio once each, whatever becomes of publishers, Label Studio and the network."""

import json
import threading

from tests.support.fake_label_studio import FakeLabelStudio
from worker.label_studio import LabelStudio
from worker.label_studio.publish import Publisher
from worker.label_studio.publish.circuit_breaker import CircuitBreaker


def test_what_is_owed_is_rendered_and_sent_once(outbox):
    tasks = outbox.enqueue(5)
    published = outbox.publish()
    assert published.counts == {"rendered": 5, "sent": 5}
    assert not published.has_more
    outbox.agree()
    [stored] = outbox.studio.predictions(tasks[0])
    [row] = [one for one in outbox.predictions() if one.ls_task_id == tasks[0]]
    assert stored["model_version"] == row.model_version
    assert [region["value"]["brushlabels"] for region in stored["result"]] == [["cat"]]
    assert (row.document, row.error_code) == (None, None)
    assert outbox.publish().counts == {}
    assert len(outbox.studio.asked("POST", "/api/predictions/")) == 5
    assert outbox.studio.asked("GET", "/api/predictions/") == []  # nobody had tried before


def test_label_studios_own_validation_accepts_what_is_sent(outbox):
    outbox.studio.validates = True
    outbox.enqueue(1)
    assert outbox.publish().counts["sent"] == 1


def test_without_a_token_documents_wait_for_predict_to_answer_with_them(outbox):
    outbox.enqueue(2)
    Publisher(outbox.engine, outbox.objects, None, "io", preset="demo").publish()
    made = [json.loads(row.document) for row in outbox.predictions()]
    assert [sorted(one) for one in made] == [["model_version", "result", "score"]] * 2
    assert [(row.state, row.lease_expires_at, row.attempted_at) for row in outbox.predictions()] == [
        ("pending", None, None)
    ] * 2
    assert outbox.publish().counts == {"sent": 2}
    outbox.agree()


def test_rows_of_another_instance_are_rendered_and_left(outbox):
    outbox.enqueue(1)
    with FakeLabelStudio() as other, LabelStudio(other.url, other.token) as client:
        assert outbox.publish(client).counts == {"rendered": 1}
        assert other.predictions() == []
    assert outbox.publish().counts == {"sent": 1}


def test_a_deleted_task_is_orphaned_and_not_tried_again(outbox):
    gone, here = outbox.enqueue(2)
    outbox.studio.delete_task(gone)
    assert outbox.publish().counts == {"rendered": 2, "orphaned": 1, "sent": 1}
    assert {row.ls_task_id: row.state for row in outbox.predictions()} == {gone: "orphaned", here: "sent"}
    outbox.due()
    assert outbox.publish().counts == {}


def test_a_deleted_task_is_noticed_when_it_is_looked_for_first(outbox):
    [gone] = outbox.enqueue(1)
    outbox.studio.fail("POST", "/api/predictions/", status=502, times=1)
    assert outbox.publish().counts["rescheduled"] == 1
    outbox.studio.delete_task(gone)
    outbox.due()
    assert outbox.publish().counts == {"orphaned": 1}


def test_a_refused_prediction_fails_with_the_reason_and_stops_no_other(outbox):
    first, *others = outbox.enqueue(4)
    outbox.render()
    region = {"from_name": "tag", "to_name": "image", "type": "brushlabels", "value": {"brushlabels": ["cow"]}}
    outbox.sql(
        "UPDATE prediction SET document = :bad WHERE ls_task_id = :task",
        bad=json.dumps({"model_version": "v", "score": 1.0, "result": [region]}),
        task=first,
    )
    outbox.studio.validates = True
    assert outbox.publish().counts == {"failed": 1, "sent": 3}
    [row] = [one for one in outbox.predictions() if one.ls_task_id == first]
    assert (row.state, row.error_code) == ("failed", "prediction_rejected")
    assert "cow" in row.error_detail
    assert [outbox.by_task()[task] for task in others] == [1, 1, 1]


def test_a_refused_token_stops_the_sending_once_and_keeps_the_rows(outbox):
    outbox.enqueue(30)
    outbox.studio.token = "another"  # noqa: S105
    clock = [0.0]
    breaker = CircuitBreaker(now=lambda: clock[0])
    with LabelStudio(outbox.studio.url, "old") as client:
        publisher = Publisher(outbox.engine, outbox.objects, client, "io", preset="demo", breaker=breaker)
        counts = publisher.publish().counts
        assert counts["rescheduled"] <= 4
        assert len(outbox.studio.asked("POST", "/api/predictions/")) <= 4
        outbox.due()
        publisher.publish()
        assert len(outbox.studio.asked("POST", "/api/predictions/")) <= 4
        assert outbox.states() == {"pending": 30}
        assert "token_unknown" in {row.error_code for row in outbox.predictions()}
        outbox.studio.token = "old"  # noqa: S105
        clock[0] += 100
        outbox.due()
        assert publisher.publish().counts["sent"] == 30
    outbox.agree()


def test_a_label_studio_that_is_away_costs_a_few_questions_and_no_row(outbox):
    outbox.enqueue(30)
    url, token = outbox.studio.url, outbox.studio.token
    with FakeLabelStudio() as gone:
        away = gone.url
    outbox.sql("UPDATE prediction SET instance = :url", url=away)
    outbox.sql("UPDATE project SET instance = :url", url=away)
    with LabelStudio(away, token) as client:
        assert outbox.publish(client).counts["sent"] == 0
    assert outbox.states() == {"pending": 30}
    assert sum(row.failure_count for row in outbox.predictions()) <= 8
    outbox.sql("UPDATE prediction SET instance = :url", url=url)
    outbox.sql("UPDATE project SET instance = :url", url=url)
    outbox.due()
    outbox.publish()
    outbox.agree()


def test_waits_grow_with_each_failure(outbox):
    outbox.enqueue(1)
    outbox.studio.fail("POST", "/api/predictions/", status=403, body={"detail": "no"}, times=3)
    waits = []
    for _ in range(3):
        outbox.publish()
        waits.append(
            outbox.sql("SELECT extract(epoch FROM available_at - now())::float AS wait FROM prediction")[0].wait
        )
        outbox.due()
    assert waits[0] < waits[1] < waits[2]
    assert outbox.publish().counts == {"sent": 1}


def test_a_busy_label_studio_is_left_alone_as_long_as_it_asks(outbox):
    outbox.enqueue(10)
    clock = [0.0]
    breaker = CircuitBreaker(now=lambda: clock[0])
    outbox.studio.fail("POST", "/api/predictions/", status=429, headers={"Retry-After": "90"}, times=1)
    with outbox.client() as client:
        publisher = Publisher(outbox.engine, outbox.objects, client, "io", preset="demo", breaker=breaker, threads=1)
        publisher.publish()
        assert len(outbox.studio.asked("POST", "/api/predictions/")) == 1
        assert not breaker.is_closed
        clock[0] = 89.0
        assert not breaker.is_closed
        clock[0] = 91.0
        outbox.due()
        publisher.publish()
    outbox.agree()


def test_a_row_that_breaks_label_studio_holds_up_no_other(outbox):
    bad, *_ = outbox.enqueue(12)

    class Breaking(LabelStudio):
        def create_prediction(self, task, document):
            if task == bad:
                raise RuntimeError("a bug")
            return super().create_prediction(task, document)

    breaking = Breaking(outbox.studio.url, outbox.studio.token)
    assert outbox.publish(breaking).counts == {"rendered": 12, "sent": 11, "rescheduled": 1}
    for _ in range(5):
        outbox.due()
        outbox.publish(Breaking(outbox.studio.url, outbox.studio.token))
    [row] = [one for one in outbox.predictions() if one.ls_task_id == bad]
    assert (row.state, row.error_code) == ("failed", "internal_error")


def test_a_publisher_that_is_told_to_stop_hands_back_what_it_did_not_begin(outbox):
    outbox.enqueue(20)
    stopped = threading.Event()

    class Stopping(LabelStudio):
        def create_prediction(self, task, document):
            stopped.set()
            return super().create_prediction(task, document)

    published = outbox.publish(Stopping(outbox.studio.url, outbox.studio.token), stop=stopped.is_set, threads=1)
    assert published.counts["sent"] == 1
    assert published.counts["released"] == 3
    assert [row.attempt for row in outbox.predictions() if row.state == "pending"] == [0] * 19
    outbox.publish()
    outbox.agree()


def test_a_slice_of_time_ends_with_more_to_do(outbox):
    outbox.enqueue(20)
    published = outbox.publish(seconds=0.0, threads=1)
    assert published.has_more
    outbox.publish()
    outbox.agree()


def test_a_project_that_label_studio_numbered_anew_gets_nothing(outbox):
    [task] = outbox.enqueue(1)
    outbox.studio.tasks[task]["project"] = outbox.studio.add_project(title="Another one")
    assert outbox.publish().counts == {"rendered": 1, "orphaned": 1}
    assert outbox.studio.predictions() == []


def test_masks_that_are_gone_delay_their_row_alone_and_mark_the_result(outbox):
    outbox.enqueue(2)
    [(masks_key,)] = outbox.sql("SELECT masks_key FROM result ORDER BY id LIMIT 1")
    move = "UPDATE result SET masks_key = :key WHERE id = (SELECT min(result_id::text)::uuid FROM prediction)"
    outbox.sql(move, key="nowhere")
    assert outbox.publish().counts == {"rescheduled": 1, "rendered": 1, "sent": 1}
    assert [row.error_code for row in outbox.predictions() if row.state == "pending"] == ["object_missing"]
    assert outbox.sql("SELECT masks_key FROM result WHERE objects_lost_at IS NOT NULL") == [("nowhere",)]
    outbox.sql(move, key=masks_key)
    outbox.due()
    assert outbox.publish().counts == {"rendered": 1, "sent": 1}
