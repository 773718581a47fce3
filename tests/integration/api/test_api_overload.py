"""A crowd of readers, and an S3 server that hangs: every request is answered, and no other request waits."""

import socket
import threading
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from api.app import create_app
from api.schemas.keys import KeyRequest
from tests.drills.reader_burst import burst
from tests.support.api_client import bearer
from tests.support.recorded import BASIC, PASSWORD, TOKEN, USER, recorded

HUNG_REQUESTS = 45
ANSWER_SECONDS = 15.0


def test_each_of_a_hundred_parallel_readers_is_answered_and_probes_do_not_wait(served, keys, api_rows):
    base, _ = served
    for _ in range(3):
        api_rows.result()
    report = burst(base, keys.read, clients=100, seconds=30)
    assert report.faults(seconds=ANSWER_SECONDS, probe_seconds=3) == []  # generous: other tests share the cores
    assert any(answer.status == 200 for answer in report.answers)


@pytest.fixture
def hanging_s3():
    """The address of a server that accepts connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(512)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


class TestWhileS3Hangs:
    @pytest.fixture
    def result(self, api_rows):
        """A result whose objects are in a bucket that answers; the API under test asks the one that does not."""
        return api_rows.result([("cat", 0.9)])

    @pytest.fixture
    def served(self, result, engine_environment, hanging_s3, request):
        engine_environment |= {
            "AWS_ENDPOINT_URL_S3": hanging_s3,
            "BASIC_AUTH_USER": USER,
            "BASIC_AUTH_PASS": PASSWORD,
            "CAR_WEBHOOK_SECRET": TOKEN,
        }
        return request.getfixturevalue("served_process")

    def test_every_other_route_answers(self, served, keys, result, api_settings):
        base, _ = served
        image_url = f"/api/v1/results/{result.id}"
        hung = [
            ("GET", f"{image_url}/overlay.png", None),
            ("GET", f"{image_url}/history.png", None),
            ("GET", f"{image_url}/masks/cat.png", None),
            ("GET", image_url, None),
            ("POST", "/api/v1/jobs", {"source": "s3://pictures/**/*.jpg", "labels": ["cat"]}),
        ]
        answers: list[tuple[int, float]] = []

        def ask(method, path, body):
            begun = time.monotonic()
            with httpx.Client(base_url=base, trust_env=False, headers=bearer(keys.admin), timeout=60) as client:
                answers.append((client.request(method, path, json=body).status_code, time.monotonic() - begun))

        threads = [threading.Thread(target=ask, args=hung[number % len(hung)]) for number in range(HUNG_REQUESTS)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        slow = self._ask_every_route(base, keys, result, create_app(api_settings))
        for thread in threads:
            thread.join()
        assert slow == []
        assert {status for status, _ in answers} <= {503, 504}
        assert max(seconds for _, seconds in answers) < ANSWER_SECONDS

    def _ask_every_route(self, base, keys, result, app):
        """Every route that needs no S3, by its method; those that take longer than 5 s or end in a 5xx."""
        asks_s3 = ("/api/v1/results/{result_id}", "/api/v1/results/{result_id}/overlay.png")
        asks_s3 += ("/api/v1/results/{result_id}/history.png", "/api/v1/results/{result_id}/labelmap.png")
        asks_s3 += ("/api/v1/results/{result_id}/masks/{label}.png", "/api/v1/results/{result_id}/masks/{label}.rle")
        slow = []
        with httpx.Client(base_url=base, trust_env=False, timeout=30) as client:
            for path, operations in app.openapi()["paths"].items():
                for method in operations:
                    if path in asks_s3 or (method, path) == ("post", "/api/v1/jobs"):
                        continue
                    url = path.replace("{result_id}", str(result.id)).replace("{label}", "cat")
                    for name in ("{job_id}", "{recipe_id}", "{key_id}"):
                        url = url.replace(name, "01a0b1c2-0000-7000-8000-000000000000")
                    url = url.replace("{ls_project_id}", "1").replace("{reference}", "nothing")
                    label_studio = path in ("/setup", "/predict", "/health", "/")
                    access = {"auth": BASIC} if label_studio else {"headers": bearer(keys.admin)}
                    body = recorded(path[1:]) if path in ("/setup", "/predict") else {}
                    begun = time.monotonic()
                    answer = client.request(method.upper(), url, json=body if method != "get" else None, **access)
                    if time.monotonic() - begun > 5 or answer.status_code >= 500:
                        slow.append((method, path, answer.status_code, round(time.monotonic() - begun, 1)))
        return slow


@given(st.datetimes(timezones=st.timezones()) | st.datetimes().map(lambda moment: moment.replace(tzinfo=UTC)))
@example(datetime.fromisoformat("9999-12-31T23:59:59-23:59"))
@example(datetime.fromisoformat("0001-01-01T00:00:00+23:59"))
def test_a_time_that_is_accepted_can_be_stored_and_read_in_utc(moment):
    try:
        request = KeyRequest.model_validate({"name": "k", "scopes": ["read"], "expires_at": moment.isoformat()})
    except ValidationError:
        return
    assert request.expires_at.utcoffset() == timedelta(0)
    assert datetime.fromisoformat(request.expires_at.isoformat()) > datetime.now(UTC)


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2020-01-01T00:00:00Z"])
def test_a_key_that_would_end_outside_of_what_can_be_read_is_refused_and_keys_stay_listed(client, moment):
    answer = client.post("/api/v1/keys", json={"name": "k", "scopes": ["read"], "expires_at": moment})
    assert answer.status_code == 422
    assert "expires_at" in answer.json()["detail"]
    assert client.get("/api/v1/keys").status_code == 200


def test_a_key_that_ends_in_another_time_zone_is_shown_in_utc(client):
    made = client.post(
        "/api/v1/keys", json={"name": "k", "scopes": ["read"], "expires_at": "9998-12-31T23:59:59.999999-23:59"}
    )
    assert made.status_code == 201
    assert made.json()["expires_at"] == "9999-01-01T23:58:59.999999Z"
    assert client.delete(f"/api/v1/keys/{made.json()['id']}").status_code == 204
