"""POST /predict: as many slots as tasks, at once, whatever they hold; each prediction to Label Studio once."""

import base64
import json
import re

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

import db.label_studio.tasks
from api.app import create_app
from db.queue import items
from db.queue.items import FailedItem
from tests.support.label_studio_rows import config
from tests.support.recorded import BASIC, STAMP, recorded, tasks_of
from tests.support.rows import LEASE

URIS = ["s3://bucket/k/a b.jpg", "s3://bucket/k/c.jpg"]


def predict(face, tasks=None, **changes):
    """The slots."""
    body = recorded("predict", **changes) | ({"tasks": tasks} if tasks is not None else {})
    answer = face.post("/predict", content=json.dumps(body).encode())
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    results = answer.json()["results"]
    assert len(results) == len(body["tasks"])
    return results


def metric(face, answer):
    text = face.get("/metrics").text
    return float(re.search(rf'car_predict_slots_total{{answer="{answer}"}} (\S+)', text)[1])


def test_what_is_new_is_queued_and_what_is_done_is_told_whenever_it_is_asked_for(ready, workers):
    version = ready.post("/setup", json=recorded("setup")).json()["model_version"]
    assert predict(ready) == [[], []]
    assert predict(ready) == [[], []]
    assert [one.uri for one in workers.sql("SELECT uri FROM item ORDER BY uri")] == URIS
    workers.label()
    [first, second] = predict(ready)
    assert first == second == {"model_version": version, "score": 0.5, "result": [{"type": "brushlabels"}]}
    assert predict(ready) == [first, second]
    assert {one.state for one in workers.predictions()} == {"sent"}
    assert (metric(ready, "queued"), metric(ready, "known"), metric(ready, "failed")) == (4, 4, 0)


def test_a_project_that_was_never_set_up_is_labelled_and_its_address_learnt_later(face, workers):
    assert predict(face) == [[], []]
    assert [(row.instance, row.ls_project_id) for row in workers.sql("SELECT * FROM project")] == [("", 2)]
    workers.label()
    told = predict(face)
    assert all(slot["result"] for slot in told)
    version = face.post("/setup", json=recorded("setup")).json()["model_version"]
    assert {slot["model_version"] for slot in told} == {version}
    [project] = workers.sql("SELECT * FROM project")
    assert project.instance.startswith("http")
    assert {row.instance for row in workers.predictions()} == {project.instance}
    assert {row.source["instance"] for row in workers.sql("SELECT source FROM job")} == {project.instance}
    assert predict(face) == told


def test_computed_and_empty_is_another_thing_than_not_known(ready, workers):
    predict(ready)
    workers.label(result=[])
    predict(ready, tasks=[])
    assert [one["result"] for one in predict(ready)] == [[], []]
    assert metric(ready, "empty") == 2


def test_a_lone_task_goes_ahead_of_a_selection(ready, workers):
    predict(ready, tasks_of([f"s3://bucket/{number}.jpg" for number in range(5)]))
    predict(ready, tasks_of(["s3://bucket/opened.jpg"], first=9))
    [first] = workers.do(items.claim, "gpu", limit=1, lease=LEASE)
    assert first.uri == "s3://bucket/opened.jpg"


def test_a_task_asked_for_after_its_prediction_was_deleted_gets_it_again(ready, workers):
    predict(ready)
    workers.label()
    told = predict(ready)
    workers.later()
    assert predict(ready) == told
    workers.sql("UPDATE prediction SET ls_prediction_id = 7, document = NULL")  # written back
    assert predict(ready) == [[], []]
    workers.later()
    assert predict(ready) == [[], []]
    assert workers.render() == [151, 152]
    assert predict(ready) == told


def test_malformed_tasks_cost_the_others_nothing_and_explain_themselves(ready, workers):
    odd = [
        {"data": {"image": "s3://bucket/a.jpg"}},
        {"id": "7", "data": {"image": "s3://bucket/a.jpg"}},
        {"id": True},
        "no task",
        None,
        [],
        {"id": 1},
        {"id": 2, "data": "text"},
        {"id": 3, "data": {"photo": "s3://bucket/a.jpg"}},
        {"id": 4, "data": {"image": None}},
        {"id": 5, "data": {"image": ["s3://bucket/a.jpg"]}},
        {"id": 6, "data": {"image": "ftp://host/a.jpg"}},
        {"id": 7, "data": {"image": "s3://bucket/a\0.jpg"}},
        {"id": 8, "data": {"image": "s3://bucket/\ud800.jpg"}},
        {"id": 9, "data": {"image": "s3://bucket/" + "x" * 5000}},
        *tasks_of(["s3://bucket/good.jpg"]),
    ]
    assert predict(ready, odd) == [[]] * len(odd)
    rows = {row.ls_task_id: row for row in workers.sql("SELECT * FROM item")}
    assert {task for task, row in rows.items() if row.state == "failed"} == set(range(1, 10))
    assert rows[151].state == "queued"
    assert {row.error_code for row in rows.values()} == {"source_invalid", None}
    assert "photo" in rows[3].error_detail
    assert "image" in rows[3].error_detail
    assert metric(ready, "failed") == len(odd) - 1


def test_the_same_task_twice_is_predicted_once(ready, workers):
    twice = tasks_of(["s3://bucket/a.jpg"]) * 2
    predict(ready, twice)
    workers.label()
    [first, second] = predict(ready, twice)
    assert first["result"]
    assert second == []


def test_failed_pictures_stay_empty_and_keep_their_reason(ready, workers):
    predict(ready)
    claimed = workers.do(items.claim, "gpu", limit=10, lease=LEASE)
    failed = [FailedItem(one, "image_missing", "there is no such object", retryable=False) for one in claimed]
    workers.do(items.fail, "gpu", failed)
    assert predict(ready) == [[], []]
    assert metric(ready, "failed") == 2


def test_an_answer_is_no_larger_than_allowed(face_settings, workers):
    with TestClient(create_app(face_settings.model_copy(update={"predict_max_answer": 2**16}))) as client:
        client.auth = BASIC
        client.post("/setup", json=recorded("setup"))
        predict(client)
        workers.label(result=[{"value": {"rle": [7] * 20_000}}])
        assert [bool(slot) for slot in predict(client)] == [True, False]
        assert [bool(slot) for slot in predict(client)] == [False, True]


def test_each_task_may_bring_its_own_words(face, workers):
    referring = {"schema": config(["thing"]), "extra_params": {"referring": "caption"}}
    assert face.post("/setup", json=recorded("setup", **referring)).status_code == 200
    captions = ["the left cat", "the right cat", "the left cat", None]
    asked = [
        {"id": number, "data": {"image": f"s3://bucket/{number % 2}.jpg", "caption": caption}}
        for number, caption in enumerate(captions, start=1)
    ]
    assert predict(face, asked, label_config=config(["thing"])) == [[]] * 4
    rows = {row.ls_task_id: row for row in workers.sql("SELECT ls_task_id, state, vocabulary_id, error_code FROM item")}
    assert rows[1].vocabulary_id != rows[2].vocabulary_id
    assert 3 not in rows  # shares picture and words with the first
    assert (rows[4].state, rows[4].error_code) == ("failed", "vocabulary_invalid")


def test_pictures_within_tasks_are_put_into_the_bucket(ready, workers, bucket):
    png = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(64)).decode()
    inline = tasks_of([f"data:image/png;base64,{png}", "data:text/plain,x", "/data/upload/2/a.jpg"])
    assert predict(ready, inline) == [[]] * 3
    rows = {row.ls_task_id: row for row in workers.sql("SELECT * FROM item")}
    assert rows[151].uri.startswith(f"s3://{bucket.name}/")
    assert rows[151].uri.partition(f"{bucket.name}/")[2] in bucket.keys("")
    assert rows[152].error_code == "source_invalid"
    assert rows[153].uri == "http://localhost:8080/data/upload/2/a.jpg"
    assert not [row for row in rows.values() if png in row.uri]


def test_while_the_bucket_is_away_pictures_within_tasks_wait_and_others_are_queued(face_settings, workers):
    away = face_settings.model_copy(update={"aws_endpoint_url_s3": "http://127.0.0.1:1"})
    with TestClient(create_app(away)) as client:
        client.auth = BASIC
        client.post("/setup", json=recorded("setup"))
        png = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
        assert predict(client, tasks_of([f"data:image/png;base64,{png}", "s3://bucket/a.jpg"])) == [[], []]
    assert [row.ls_task_id for row in workers.sql("SELECT ls_task_id FROM item")] == [152]


@pytest.mark.parametrize(
    "changes",
    [
        {"label_config": "<View></View>"},
        {"label_config": None},
        {"project": "none"},
        {"project": "77.1"},
        {"project": "2.1"},
        {"params": None},
        {"params": {"context": "text"}},
        {"params": {"context": {"result": []}}},
        {"params": {"context": {"result": "text"}}},
    ],
)
def test_whatever_the_request_lacks_there_are_as_many_slots_as_tasks(ready, changes):
    assert predict(ready, **changes) == [[], []]


def test_hundreds_of_tasks_are_answered_and_counted_like_two(ready, workers):
    tasks = tasks_of([f"s3://bucket/{number}.jpg" for number in range(300)])
    assert predict(ready, tasks) == [[]] * 300
    assert metric(ready, "queued") == 300
    workers.label(result=[{"type": "brushlabels", "value": {"rle": [7] * 2_000}}])  # several chunks
    assert all(slot["result"] for slot in predict(ready, tasks))
    assert metric(ready, "known") == 300
    context = recorded("predict_smart_tool")["params"]
    assert predict(ready, tasks, params=context) == [[]] * 300  # does not wait without a worker
    body = json.dumps(recorded("predict", tasks=tasks)).encode()
    assert ready.post("/predict", content=body[:-1]).status_code == 422
    assert ready.post("/predict", content=body[:-9] + b"\xff\xfe" + body[-9:]).status_code == 422
    surrogate = body.replace(b'"s3://bucket/7.jpg"', rb'"s3://bucket/\ud800.jpg"')
    assert len(ready.post("/predict", content=surrogate).json()["results"]) == 300


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"tasks": 3}', b"\xff"])
def test_a_body_in_which_no_tasks_can_be_counted_is_refused(ready, body):
    answer = ready.post("/predict", content=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")


def test_no_tasks_are_no_slots(ready):
    assert predict(ready, []) == []


def test_a_project_that_setup_never_told_is_taken_where_label_studio_is_configured(face_settings, workers):
    with TestClient(create_app(face_settings.model_copy(update={"label_studio_url": "http://ls:8080"}))) as client:
        client.auth = BASIC
        assert predict(client) == [[], []]
    assert workers.sql("SELECT count(*) FROM item") == [(2,)]
    assert workers.sql("SELECT instance, ls_project_key FROM project") == [("http://ls:8080", STAMP)]


def test_while_the_database_is_away_every_slot_is_empty(face_settings):
    away = face_settings.model_copy(update={"database_url": SecretStr("postgresql://car:hidden@127.0.0.1:1/car")})
    with TestClient(create_app(away)) as client:
        client.auth = BASIC
        assert predict(client) == [[], []]


def test_a_bug_is_logged_and_every_slot_is_empty(ready, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(db.label_studio.tasks, "submit", broken)
    assert predict(ready) == [[], []]


def test_while_redis_is_away_tasks_are_queued(face_settings, workers):
    away = face_settings.model_copy(update={"celery_broker_url": SecretStr("redis://127.0.0.1:1/0")})
    with TestClient(create_app(away)) as client:
        client.auth = BASIC
        client.post("/setup", json=recorded("setup"))
        assert predict(client) == [[], []]
    assert workers.sql("SELECT count(*) FROM item") == [(2,)]


def test_a_changed_configuration_is_noticed_without_setup(ready, workers):
    predict(ready)
    assert predict(ready, label_config=config(["hen"])) == [[], []]
    jobs = workers.sql("SELECT count(*) FROM job")
    assert jobs == [(2,)]


@pytest.mark.usefixtures("workers")
def test_large_bodies_of_label_studio_are_taken_and_endless_ones_are_not(face_settings):
    with TestClient(create_app(face_settings.model_copy(update={"predict_max_body": 2**22}))) as client:
        client.auth = BASIC
        client.post("/setup", json=recorded("setup"))
        assert predict(client, tasks_of([f"s3://b/{'x' * 900}/{n}.jpg" for n in range(1500)])) == [[]] * 1500
        answer = client.post("/predict", content=json.dumps({"tasks": ["x" * 2**22]}).encode())
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
