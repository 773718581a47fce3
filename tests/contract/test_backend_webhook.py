"""POST /webhook: what happened in Label Studio is answered at once and looked at after."""

import time

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from structlog.testing import capture_logs

import db.label_studio.tasks
from api.app import create_app
from tests.support.label_studio_rows import config
from tests.support.recorded import BASIC, STAMP, TOKEN, recorded, tasks_of


def tell(client, name, **changes):
    answer = client.post("/webhook", json=recorded(name, **changes), headers={"X-Car-Token": TOKEN})
    assert (answer.status_code, answer.json()["status"]) == (201, "ok"), answer.text


def test_tasks_that_were_created_are_queued(ready, workers):
    tell(ready, "webhook_tasks_created")
    rows = workers.sql("SELECT ls_task_id, state FROM item ORDER BY ls_task_id")
    assert rows == [(151, "queued"), (152, "queued")]
    [project] = workers.sql("SELECT title, ls_project_key, webhook_at FROM project")
    assert (project.title, project.ls_project_key) == ("Pets", STAMP)
    assert project.webhook_at is not None
    workers.label()
    assert [one.ls_task_id for one in workers.predictions()] == [151, 152]


def test_the_version_is_the_one_that_setup_told(ready, workers):
    version = ready.post("/setup", json=recorded("setup")).json()["model_version"]
    tell(ready, "webhook_tasks_created")
    workers.label()
    assert {one.model_version for one in workers.predictions()} == {version}
    assert ready.post("/setup", json=recorded("setup")).json()["model_version"] == version


def test_a_changed_configuration_is_noted(ready, workers):
    project = recorded("webhook_project_updated")["project"] | {"label_config": config(["hen"])}
    tell(ready, "webhook_project_updated", project=project)
    assert workers.sql("SELECT label_config FROM project") == [(config(["hen"]),)]


def test_deleted_tasks_are_neither_computed_nor_sent(ready, workers):
    shared = [*tasks_of(["s3://bucket/a.jpg", "s3://bucket/b.jpg"]), *tasks_of(["s3://bucket/b.jpg"], first=153)]
    tell(ready, "webhook_tasks_created", tasks=shared)
    tell(ready, "webhook_tasks_deleted", tasks=[{"id": 151}, {"id": 152}, {"id": 9999}, {"id": None}, "odd"])
    rows = workers.sql("SELECT uri, state FROM item ORDER BY uri")
    assert rows == [("s3://bucket/a.jpg", "cancelled"), ("s3://bucket/b.jpg", "queued")]
    workers.finish()
    tell(ready, "webhook_tasks_deleted", tasks=[{"id": 153}])
    [prediction] = workers.predictions()
    assert (prediction.ls_task_id, prediction.state, prediction.error_code) == (153, "orphaned", "task_deleted")
    assert workers.render() == []


def test_a_deleted_task_that_comes_back_is_labelled(ready, workers):
    tell(ready, "webhook_tasks_created")
    tell(ready, "webhook_tasks_deleted")
    tell(ready, "webhook_tasks_created")
    assert workers.sql("SELECT ls_task_id, state FROM item ORDER BY ls_task_id") == [(151, "queued"), (152, "queued")]


def test_training_is_answered_and_nothing_is_trained(ready):
    answer = ready.post("/webhook", json=recorded("webhook_start_training"))
    assert answer.status_code == 201
    assert "nothing to train" in answer.json()["detail"]


@pytest.mark.parametrize("action", ["LABEL_LINK_CREATED", "ANNOTATION_DELETED", "x"])
def test_other_events_are_unknown(ready, action):
    answer = ready.post("/webhook", json={"action": action})
    assert (answer.status_code, answer.json()["status"]) == (200, "Unknown event")


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"action": 3}', b'{"action": "TASKS_CREATED"}'])
def test_what_is_no_event_is_refused(ready, body):
    assert ready.post("/webhook", content=body).status_code == 422


@pytest.mark.parametrize("odd", [None, {}, "text", [None, 7, {"id": "x"}, {"id": 1, "data": None}]])
def test_odd_tasks_harm_nothing(ready, odd):
    for name in ("webhook_tasks_created", "webhook_tasks_deleted"):
        tell(ready, name, tasks=odd)
    for name in ("webhook_annotation_created", "webhook_annotations_created"):
        tell(ready, name, annotation=odd)
    tell(ready, "webhook_annotations_deleted", annotations=odd)


def test_tasks_of_a_project_that_was_never_set_up_are_queued_and_setup_tells_whose_they_are(face, workers):
    tell(face, "webhook_tasks_created")
    assert workers.sql("SELECT ls_task_id, state FROM item ORDER BY ls_task_id") == [(151, "queued"), (152, "queued")]
    assert workers.sql("SELECT instance FROM project") == [("",)]
    assert face.post("/setup", json=recorded("setup")).status_code == 200
    [project] = workers.sql("SELECT instance, ls_project_key FROM project")
    assert project.instance
    assert project.ls_project_key == STAMP
    assert workers.sql("SELECT count(*) FROM item") == [(2,)]


def test_an_event_of_another_project_of_the_same_number_is_answered_and_logged(ready, workers):
    other = recorded("webhook_tasks_created")["project"] | {"created_at": "2020-01-01T00:00:00.000000Z"}
    with capture_logs() as logged:
        tell(ready, "webhook_tasks_created", project=other)
    assert [line["code"] for line in logged if line["event"] == "event lost"] == ["not_found"]
    assert workers.sql("SELECT ls_project_key FROM project") == [(STAMP,)]
    assert workers.sql("SELECT count(*) FROM item") == [(0,)]


def test_where_tasks_could_not_be_asked_for_the_project_is_looked_through_later(ready, workers, monkeypatch):
    def busy(*_, **__):
        raise db.errors.DatabaseBusyError("a statement took too long")

    monkeypatch.setattr(db.label_studio.tasks, "submit", busy)
    tell(ready, "webhook_tasks_created")
    assert workers.sql("SELECT sync_wanted_at IS NOT NULL FROM project") == [(True,)]


def test_while_the_database_is_away_the_answer_is_the_same(face_settings):
    away = face_settings.model_copy(update={"database_url": SecretStr("postgresql://car:hidden@127.0.0.1:1/car")})
    with TestClient(create_app(away)) as client:
        client.auth = BASIC
        tell(client, "webhook_tasks_created")


def test_five_thousand_tasks_are_taken(ready, workers):
    many = tasks_of([f"s3://bucket/{number}.jpg" for number in range(5000)])
    begun = time.monotonic()
    tell(ready, "webhook_tasks_created", tasks=many)
    assert workers.sql("SELECT count(*) FROM item WHERE state = 'queued'") == [(5000,)]
    assert time.monotonic() - begun < 30  # with the work that follows the answer


def test_annotations_are_kept_to_be_compared(ready, workers):
    def kept():
        return workers.sql(
            "SELECT ls_annotation_id, ls_task_id, state, jsonb_array_length(result) FROM annotation ORDER BY 1"
        )

    tell(ready, "webhook_annotation_created")
    assert kept() == [(1, 151, "pending", 1)]
    tell(ready, "webhook_annotation_updated")
    tell(ready, "webhook_annotations_created")
    assert kept() == [(1, 151, "pending", 1), (2, 152, "pending", 1)]
    tell(ready, "webhook_annotations_deleted")
    assert kept() == [(2, 152, "pending", 1)]


def test_a_skipped_task_says_nothing_of_our_masks(ready, workers):
    skipped = recorded("webhook_annotation_created")["annotation"] | {"was_cancelled": True}
    tell(ready, "webhook_annotation_created", annotation=skipped)
    assert workers.sql("SELECT count(*) FROM annotation") == [(0,)]


def test_a_configuration_that_can_show_no_mask_stands_on_the_projects_page(ready, workers):
    project = recorded("webhook_project_updated")["project"] | {"label_config": "<View></View>"}
    tell(ready, "webhook_project_updated", project=project)
    [row] = workers.sql("SELECT label_config, problems FROM project")
    assert row.problems[0]["code"] == "labeling_config_invalid"
    assert row.label_config != "<View></View>"
