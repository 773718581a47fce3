"""What the API promises without an engine at hand: its OpenAPI document, its settings, its errors."""

import subprocess
import sys

import pytest
from fastapi.testclient import TestClient

import api.errors
import db.errors
from api.app import create_app
from api.errors import STATUS
from api.settings import ApiSettings
from car.errors import CarError
from db.errors import SettingsInvalidError

GIVEN = {
    "DATABASE_URL": "postgresql://a:b@127.0.0.1:1/c",
    "CELERY_BROKER_URL": "redis://127.0.0.1:1/0",
    "S3_BUCKET": "bucket",
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
}


@pytest.fixture(scope="module")
def document():
    return create_app(ApiSettings(**GIVEN)).openapi()


def operations(document):
    return [(path, method, one) for path, all_of in document["paths"].items() for method, one in all_of.items()]


def test_every_operation_is_described_and_its_errors_are_problems(document):
    assert len(operations(document)) > 25
    for path, _, one in operations(document):
        assert one["summary"], path
        assert one["responses"]["default"]["content"] == {
            "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
        }, path
    ids = [one["operationId"] for *_, one in operations(document)]
    assert len(ids) == len(set(ids))


def test_only_health_is_open(document):
    open_ones = {path for path, _, one in operations(document) if not one.get("security")}
    assert open_ones == {"/", "/health", "/healthz", "/readyz"}


def test_the_root_sends_a_browser_to_the_api_reference_and_answers_label_studio():
    with TestClient(create_app(ApiSettings(**GIVEN))) as client:
        page = client.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}, follow_redirects=False)
        assert (page.status_code, page.headers["location"]) == (307, "/docs")
        assert client.get("/").json()["status"] == "UP"


def test_the_document_and_its_page_are_served_without_an_engine():
    with TestClient(create_app(ApiSettings(**GIVEN))) as client:
        assert client.get("/openapi.json").json()["info"]["title"] == "CaR Labeler"
        assert "swagger" in client.get("/docs").text
        assert client.get("/healthz").json() == {"status": "ok"}


def test_every_setting_says_what_it_is_for():
    for name, field in ApiSettings.model_fields.items():
        assert field.alias, name
        assert field.description, name


def test_a_wrong_setting_is_named_and_its_value_is_not(monkeypatch):
    for name, value in {**GIVEN, "CAR_PRESET": "vok", "CAR_API_MAX_BODY": "secret"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsInvalidError, match=r"CAR_PRESET.*known presets") as raised:
        ApiSettings.from_environment()
    assert "CAR_API_MAX_BODY" in str(raised.value)
    assert "secret" not in str(raised.value)


def test_every_error_of_rows_and_objects_has_a_status_or_is_a_fault_of_ours():
    def below(kind):
        return {kind}.union(*(below(one) for one in kind.__subclasses__()))

    ours = {"settings_invalid", "database_error", "object_too_large", "migration_blocked", "error"}
    shown = {one.code for one in below(CarError) if one.__module__ in (db.errors.__name__, api.errors.__name__)}
    assert shown - set(STATUS) <= ours


def test_the_process_says_which_settings_are_missing():
    ran = subprocess.run(
        [sys.executable, "-m", "api"],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert ran.returncode == 1
    assert "DATABASE_URL" in ran.stderr
    assert "Traceback" not in ran.stderr
