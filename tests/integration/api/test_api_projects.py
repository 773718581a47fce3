"""Projects of Label Studio through the API, on the real engines."""

import pytest
import redis

from db.label_studio import outbox, projects, tasks
from db.queue import items
from db.queue.items import FailedItem
from db.session import transaction
from tests.support.api_client import LEASE, bearer
from tests.support.label_studio_rows import INSTANCE, WEIGHTS, ProjectRows, config

PROJECTS = "/api/v1/label-studio/projects"
SEVEN = f"{PROJECTS}/7"


@pytest.fixture
def project(database):
    return ProjectRows(database)


def test_a_project_tells_its_words_tasks_predictions_and_faults(client, project):
    project.ask(1, 2, 3)
    project.finish(limit=1)
    mine = project.do(items.claim, "w", limit=1, lease=LEASE)
    project.do(items.fail, "w", [FailedItem(mine[0], "image_corrupt", "broken", retryable=False)])
    shown = client.get(SEVEN).json()
    assert (shown["ls_project_id"], shown["instance"], shown["preset"]) == (7, INSTANCE, "demo")
    assert shown["labels"] == [{"name": "cat", "prompts": ["cat"]}, {"name": "dog", "prompts": ["dog"]}]
    assert shown["tasks"] == 3
    assert {state: number for state, number in shown["items"].items() if number} == {
        "done": 1,
        "failed": 1,
        "queued": 1,
    }
    assert shown["predictions"]["pending"] == 1
    assert shown["failed"] == [{"code": "image_corrupt", "count": 1, "example": "broken", "ls_task_id": 2}]
    assert shown["model_version"].startswith("car-")
    assert (shown["sync"]["wanted_at"], shown["sync"]["synced_at"]) == (None, None)
    assert shown["setup_at"] is not None
    assert shown["webhook_at"] is None


def test_projects_are_listed_last_seen_first_page_by_page(client, project):
    project.note(ls_project_id=8, title="Shelves")
    first = client.get(PROJECTS, params={"limit": 1}).json()
    second = client.get(PROJECTS, params={"limit": 1, "cursor": first["next"]}).json()
    assert [(one["ls_project_id"], one["title"]) for one in first["items"] + second["items"]] == [
        (8, "Shelves"),
        (7, None),
    ]
    assert second["next"] is None


def test_tasks_say_why_they_failed_and_where_their_result_is(client, project):
    project.ask(1, 2)
    project.finish(limit=1)
    mine = project.do(items.claim, "w", limit=1, lease=LEASE)
    project.do(items.fail, "w", [FailedItem(mine[0], "image_corrupt", "broken", retryable=False)])
    done, failed = client.get(f"{SEVEN}/tasks").json()["items"]
    assert client.get(done["result_url"] + "/history").json()["result"] == done["result"]
    assert (done["ls_task_id"], done["prediction"], done["error"]) == (1, "pending", None)
    assert (failed["ls_task_id"], failed["result"], failed["error"]) == (
        2,
        None,
        {"code": "image_corrupt", "detail": "broken"},
    )
    only = client.get(f"{SEVEN}/tasks", params={"state": "failed"}).json()["items"]
    assert [one["ls_task_id"] for one in only] == [2]
    page = client.get(f"{SEVEN}/tasks", params={"limit": 1}).json()
    rest = client.get(f"{SEVEN}/tasks", params={"limit": 1, "cursor": page["next"]}).json()
    assert [one["ls_task_id"] for one in page["items"] + rest["items"]] == [1, 2]


def test_what_failed_is_tried_again_when_asked_for(client, project, broker_url):
    project.ask(1, 2)
    project.finish(limit=1)
    mine = project.do(items.claim, "w", limit=1, lease=LEASE)
    project.do(items.fail, "w", [FailedItem(mine[0], "image_corrupt", "broken", retryable=False)])
    (outgoing,) = project.do(outbox.claim, "io", limit=1, lease=LEASE, instance=INSTANCE)
    project.do(outbox.fail, "io", outgoing, code="prediction_rejected", detail="no such label")
    assert client.get(SEVEN).json()["unsent"][0]["code"] == "prediction_rejected"
    answer = client.post(f"{SEVEN}/retry")
    assert answer.status_code == 202, answer.text
    assert (answer.json()["images"], answer.json()["predictions"]) == (1, 1)
    shown = answer.json()["project"]
    assert (shown["items"]["queued"], shown["items"]["failed"], shown["predictions"]["pending"]) == (1, 0, 1)
    with redis.Redis.from_url(broker_url) as bell:
        assert (bell.llen("gpu"), bell.llen("io")) == (1, 1)


@pytest.mark.usefixtures("project")
def test_a_sync_is_wanted_once_and_rung_for(client, broker_url):
    answer = client.post(f"{SEVEN}/sync")
    assert answer.status_code == 202, answer.text
    assert answer.json()["sync"]["wanted_at"] is not None
    assert client.post(f"{SEVEN}/sync").status_code == 202
    with redis.Redis.from_url(broker_url) as bell:
        assert bell.llen("io") == 2


def test_a_project_that_nothing_has_told_of_is_told_of(client, database):
    told = {
        "label_config": config(["bolt"]),
        "title": "Bolts",
        "ls_project_key": "9.1795220370",
        "instance": f"{INSTANCE}/",
    }
    made = client.put(f"{PROJECTS}/9", json=told)
    assert made.status_code == 200, made.text
    assert (made.json()["instance"], made.json()["title"], made.json()["tasks"]) == (INSTANCE, "Bolts", 0)
    assert made.json()["setup_at"] is None
    assert client.put(f"{PROJECTS}/9", json=told).json() == made.json()
    with transaction(database) as session:
        known = projects.find(session, 9)
        tasks.submit(session, known, [tasks.TaskSubmission(ls_task_id=1, uri="s3://a/b.png")], weights=WEIGHTS)
    other = client.put(f"{PROJECTS}/9", json=told | {"extra_params": {"set": {"theta": 0.3}}})
    assert other.json()["model_version"] != made.json()["model_version"]
    assert other.json()["extra_params"] == {"set": {"theta": 0.3}}
    assert client.put(f"{PROJECTS}/9", json=told).json()["extra_params"] == {"set": {"theta": 0.3}}  # null: as they are


def test_what_no_project_can_be_made_of_is_refused(client):
    for changed, code in (
        ({"label_config": "<View"}, "labeling_config_invalid"),
        ({"label_config": "<View/>"}, "labeling_config_invalid"),
        ({"extra_params": {"preset": "vok"}}, "recipe_invalid"),
        ({"instance": None}, "request_invalid"),
        ({"titel": "x"}, "request_invalid"),
        ({"title": "a\0b"}, "request_invalid"),
    ):
        answer = client.put(f"{PROJECTS}/9", json={"label_config": config(), "instance": INSTANCE} | changed)
        assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
    assert client.get(PROJECTS).json()["items"] == []


def test_unknown_projects_and_those_of_two_label_studios(client, project):
    for path in ("", "/tasks", "/feedback"):
        assert client.get(f"{PROJECTS}/99{path}").json()["code"] == "not_found"
    project.note(instance="http://other:8080")
    answer = client.get(SEVEN)
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert client.get(SEVEN, params={"instance": "http://other:8080"}).json()["instance"] == "http://other:8080"
    assert client.get(f"{PROJECTS}/0").status_code == 422


@pytest.mark.usefixtures("project")
def test_reading_and_writing_need_their_scopes(client, keys):
    assert client.get(SEVEN, headers=bearer(keys.read)).status_code == 200
    for method, path in (("POST", "/sync"), ("POST", "/retry"), ("PUT", "")):
        assert client.request(method, SEVEN + path, headers=bearer(keys.read), json={}).status_code in (403, 422)
    assert client.post(f"{SEVEN}/sync", headers=bearer(keys.read)).json()["code"] == "scope_missing"
    assert client.post(f"{SEVEN}/sync", headers=bearer(keys.write)).status_code == 202
