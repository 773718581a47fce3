"""Who may do what; what happens where a part is away; what never leaves the process."""

import json
import re
import subprocess
import sys
import time

import httpx
from fastapi.testclient import TestClient
from structlog.testing import capture_logs

from api.app import create_app
from db.session import transaction
from tests.support.api_client import bearer
from tests.support.recorded import BASIC, PASSWORD, TOKEN, USER

NOWHERE = "00000000-0000-7000-8000-000000000000"
LABEL_STUDIO = {"/setup", "/predict", "/webhook"}
OPEN = {"/", "/health", "/healthz", "/readyz", "/metrics", "/docs", "/docs/oauth2-redirect", "/openapi.json"}


def routes(app):
    """(method, address, secured) of every route that wants a key."""
    found = []
    for path, operations in app.openapi()["paths"].items():
        if path in OPEN | LABEL_STUDIO:
            continue
        address = re.sub(r"\{[^}]*\}", NOWHERE, path)
        found += [(method.upper(), address, bool(one.get("security"))) for method, one in operations.items()]
    return found


def test_every_route_denies_strangers_and_unknown_keys(app, anonymous):
    table = routes(app)
    assert len(table) > 20
    for method, address, secured in table:
        assert secured, address
        for headers in ({}, bearer("car_" + "x" * 43), bearer("\x7f"), {"Authorization": "Basic eDp5"}):
            answer = anonymous.request(method, address, headers=headers, json={})
            assert answer.status_code == 401, (method, address, headers, answer.text)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.headers["content-type"] == "application/problem+json"


def test_every_route_of_label_studio_denies_strangers(face_settings, keys):
    app = create_app(face_settings)
    table = [
        (path, method) for path, all_of in app.openapi()["paths"].items() for method in all_of if path in LABEL_STUDIO
    ]
    assert {path for path, _ in table} == LABEL_STUDIO
    wrong = [("car", "wrong"), ("", ""), ("other", PASSWORD), ("car", PASSWORD + "x")]
    with TestClient(app) as client:
        for path, method in table:
            strange = [{}, bearer(keys.admin), {"Authorization": "Basic \x7f"}, {"Authorization": "Basic"}]
            strange += [{"X-Car-Token": "wrong"}, {"X-Car-Token": ""}]
            answers = [client.request(method, path, headers=headers, json={}) for headers in strange]
            answers += [client.request(method, path, auth=auth, json={}) for auth in wrong]
            for answer in answers:
                assert (answer.status_code, answer.json()["code"]) == (401, "credentials_refused"), path
                assert answer.headers["www-authenticate"].startswith("Basic")
            for auth in (BASIC, (USER, PASSWORD)):  # as requests and as browsers send it
                assert client.request(method, path, auth=auth, json={}).status_code == 422, path
        assert client.post("/webhook", headers={"X-Car-Token": TOKEN}, json={}).status_code == 422
        assert client.post("/predict", headers={"X-Car-Token": TOKEN}, json={}).status_code == 401


def test_health_is_told_to_strangers_and_says_when_credentials_are_wrong(face_settings):
    with TestClient(create_app(face_settings)) as client:
        for path in ("/", "/health"):
            assert client.get(path).json() == {"status": "UP", "model_class": "CarLabeler"}
            assert client.get(path, auth=BASIC).status_code == 200
            assert client.get(path, auth=("car", "wrong")).status_code == 401


def test_the_webhook_is_open_only_where_nothing_is_configured(api_settings, face_settings):
    settings = {"none": api_settings, "both": face_settings}
    settings["secret"] = face_settings.model_copy(update={"basic_auth_user": None, "basic_auth_pass": None})
    settings["basic"] = face_settings.model_copy(update={"webhook_secret": None})
    answers = {}
    for name, one in settings.items():
        with TestClient(create_app(one)) as client:
            sent = ({}, {"headers": {"X-Car-Token": TOKEN}}, {"auth": BASIC})
            answers[name] = [
                client.post("/webhook", json={"action": "START_TRAINING"}, **more).status_code for more in sent
            ]
    assert answers == {
        "none": [201, 201, 201],
        "both": [401, 201, 201],
        "secret": [401, 201, 401],
        "basic": [401, 401, 201],
    }


def test_every_route_denies_keys_of_too_small_a_scope(app, anonymous, keys):
    for method, address, _ in routes(app):
        writes = method != "GET"
        admin = "/keys" in address
        for scope, key in keys._asdict().items():
            answer = anonymous.request(method, address, headers=bearer(key), json={})
            may = scope == "admin" or (not admin and (not writes or scope == "write"))
            assert (answer.status_code != 403) == may, (method, address, scope, answer.text)
            assert answer.status_code != 401


def test_a_key_is_made_shown_once_and_revoked(client):
    made = client.post("/api/v1/keys", json={"name": "export", "scopes": ["read"]})
    assert made.status_code == 201
    key = made.json()
    assert key["key"].startswith(key["prefix"])
    listed = client.get("/api/v1/keys").json()["items"][0]
    assert listed["id"] == key["id"]
    assert "key" not in listed
    assert key["key"] not in client.get("/api/v1/keys").text
    assert client.get("/api/v1/jobs", headers=bearer(key["key"])).status_code == 200
    assert client.delete(f"/api/v1/keys/{key['id']}").status_code == 204
    answer = client.get("/api/v1/jobs", headers=bearer(key["key"]))
    assert (answer.status_code, answer.json()["code"]) == (401, "key_refused")
    assert "revoked" in answer.json()["detail"]
    past = {"name": "old", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"}
    assert client.post("/api/v1/keys", json=past).status_code == 422
    assert client.delete(f"/api/v1/keys/{NOWHERE}").status_code == 404


def test_workers_are_listed(client, database):
    from db.queue import workers  # noqa: PLC0415 - only here

    with transaction(database) as session:
        workers.heartbeat(session, workers.WorkerInfo("h:1:a", "gpu", "cpu", {}, "0.1.0"), finished=3)
    answer = client.get("/api/v1/workers").json()["items"]
    assert [(one["name"], one["queue"], one["finished"]) for one in answer] == [("h:1:a", "gpu", 3)]
    text = client.get("/metrics").text
    assert 'car_workers{queue="gpu"} 1.0' in text
    assert 'car_items_finished_total{queue="gpu",worker="h:1:a"} 3.0' in text


def test_metrics_tell_of_requests_by_route_and_of_the_queue(client, api_rows):
    api_rows.job(uris=["s3://a/1.png", "s3://a/2.png"])
    client.get("/api/v1/jobs")
    client.get(f"/api/v1/results/{NOWHERE}")
    client.get("/nowhere")
    text = client.get("/metrics").text
    assert 'car_http_request_seconds_count{method="GET",route="/api/v1/jobs",status="200"} 1.0' in text
    assert 'route="/api/v1/results/{result_id}",status="404"' in text
    assert 'route="unmatched",status="404"' in text
    assert 'car_items{priority="bulk",state="queued"} 2.0' in text
    assert 'car_items{priority="interactive",state="running"} 0.0' in text
    assert "car_database_up 1.0" in text
    assert float(re.search(r"^car_oldest_item_wait_seconds (\S+)", text, re.MULTILINE)[1]) > 0


def test_a_body_of_more_than_a_megabyte_is_refused_however_it_comes(client):
    large = b'{"source": "' + b"x" * 2**20 + b'"}'
    headers = {"Content-Type": "application/json"}
    for content in (large, iter([large[: 2**19], large[2**19 :]])):
        answer = client.post("/api/v1/jobs", content=content, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large"), answer.text
        assert answer.headers["content-type"] == "application/problem+json"


def test_problems_are_problems_for_unknown_addresses_and_methods(client):
    for answer, status in ((client.get("/nowhere"), 404), (client.put("/api/v1/jobs"), 405)):
        assert answer.status_code == answer.json()["status"] == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-request-id"]


def test_a_bug_is_logged_and_told_without_details(client, monkeypatch):
    def broken(*_):
        raise RuntimeError("the secret word")

    monkeypatch.setattr("db.queue.workers.list_alive", broken)
    with capture_logs() as logged:
        answer = client.get("/api/v1/workers", headers={"X-Request-Id": "mine"})
    assert [line["path"] for line in logged if line["event"] == "unexpected error"] == ["/api/v1/workers"]
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.headers["x-request-id"] == "mine"
    assert "secret" not in answer.text


def test_a_job_is_taken_while_redis_is_away(api_settings, keys, bucket):
    bucket.put("a.png", b"x")
    away = api_settings.model_copy(update={"celery_broker_url": _secret("redis://127.0.0.1:1/0")})
    with TestClient(create_app(away), headers=bearer(keys.write)) as client:
        answer = client.post("/api/v1/jobs", json={"source": f"s3://{bucket.name}/", "labels": ["cat"]})
        assert answer.status_code == 202
        assert client.get(answer.headers["location"]).status_code == 200
        assert client.get("/readyz").json()["checks"]["broker"] == "away"


def test_without_the_database_the_answer_is_503_and_the_process_lives(api_settings):
    away = api_settings.model_copy(update={"database_url": _secret("postgresql://car:hidden@127.0.0.1:1/car")})
    with TestClient(create_app(away), headers=bearer("car_" + "x" * 43)) as client:
        for path in ("/api/v1/jobs", "/readyz"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (503, "database_unreachable")
            assert answer.headers["retry-after"]
            assert "hidden" not in answer.text
        assert client.get("/healthz").json() == {"status": "ok"}
        assert "car_database_up 0.0" in client.get("/metrics").text


def test_without_the_object_store_results_are_listed_and_masks_are_503(api_settings, keys, api_rows):
    written = api_rows.result()
    away = api_settings.model_copy(update={"aws_endpoint_url_s3": "http://127.0.0.1:1"})
    with TestClient(create_app(away), headers=bearer(keys.write)) as client:
        assert len(client.get("/api/v1/results").json()["items"]) == 1
        answer = client.get(f"/api/v1/results/{written.id}/masks/cat.png")
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unreachable")
        order = {"source": "s3://some-bucket/", "labels": ["cat"]}
        assert client.post("/api/v1/jobs", json=order).status_code == 503
        ready = client.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["checks"]["objects"] in ("slow", "store_unreachable")


def test_without_tables_it_is_not_ready_and_says_what_to_do(api_settings, empty_database_url):
    bare = api_settings.model_copy(update={"database_url": _secret(empty_database_url)})
    with TestClient(create_app(bare), headers=bearer("car_" + "x" * 43)) as client:
        for path in ("/readyz", "/api/v1/jobs"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (503, "schema_outdated")
            assert "car migrate" in answer.json()["detail"]


def test_ready_names_its_checks(client):
    checks = {"database": "ok", "schema": "ok", "broker": "ok", "objects": "ok"}
    assert client.get("/readyz").json() == {"status": "ready", "checks": checks}


def test_the_process_answers_health_in_milliseconds_logs_no_secret_and_ends_in_order(served, api_rows, keys):
    base, process = served
    written = api_rows.result([("%2F", 0.9)])
    with httpx.Client(base_url=base, trust_env=False, headers=bearer(keys.read)) as client:
        times = []
        for _ in range(50):
            begun = time.perf_counter()
            assert client.get("/healthz").status_code == 200
            times.append(time.perf_counter() - begun)
        assert sorted(times)[25] < 0.02
        links = client.get(f"/api/v1/results/{written.id}", params={"x": "hidden-word"}).json()["links"]
        # Twice quoted: the label itself is a quoted slash.
        assert client.get(f"/api/v1/results/{written.id}/masks/%252F.png").status_code == 200
        client.get("/api/v1/jobs", headers=bearer("car_wrong-hidden-word"))
    process.terminate()
    printed = process.communicate(timeout=15)[0]
    assert process.returncode in (0, -15)
    lines = [json.loads(line) for line in printed.splitlines()]
    assert {line["status"] for line in lines if line["event"] == "request"} == {200, 401}
    for secret in (keys.read, "hidden-word", "X-Amz-Signature", links["masks"]):
        assert secret not in printed


def test_the_process_needs_no_torch():
    program = (
        "import sys, api.app, api.__main__; print(sorted({'torch', 'transformers', 'cv2', 'scipy'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == "[]"


def _secret(url):
    from pydantic import SecretStr  # noqa: PLC0415 - only here

    return SecretStr(url)
