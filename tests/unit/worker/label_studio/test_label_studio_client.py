"""The client of Label Studio's API: tokens, pages and typed errors."""

import json
import socket

import pytest

from tests.support.fake_label_studio import FakeLabelStudio, jwt
from worker.label_studio import LabelStudio, TokenKind
from worker.label_studio.errors import (
    AddressBlockedError,
    ForbiddenError,
    LabelStudioBusyError,
    LabelStudioError,
    LabelStudioUnreachableError,
    LegacyTokenRefusedError,
    NotLabelStudioError,
    OutcomeUncertainError,
    ProjectNotFoundError,
    RejectedError,
    TaskNotFoundError,
    TokenExpiredError,
    TokenRefusedError,
    TokenShortLivedError,
)

VERSION = "car-0.1.0+11111111.22222222.33333333.44444444"
DOCUMENT = json.dumps({"model_version": VERSION, "score": 0.5, "result": []})


@pytest.fixture
def client(label_studio):
    with LabelStudio(label_studio.url, label_studio.token) as client:
        yield client


@pytest.fixture
def project(label_studio):
    return label_studio.add_project(created_at="2026-11-21T14:23:32.201579Z")


def test_a_legacy_token_is_sent_as_it_is(label_studio, client):
    assert client.tokens.kind is TokenKind.LEGACY
    assert client.headers() == {"Authorization": f"Token {label_studio.token}"}
    assert client.whoami()["email"] == "someone@example.com"


def test_a_personal_token_is_exchanged_once_for_many_requests(label_studio, project):
    with LabelStudio(label_studio.url, label_studio.personal_token()) as client:
        assert client.tokens.kind is TokenKind.PERSONAL
        for _ in range(3):
            client.project(project)
        assert client.headers()["Authorization"].startswith("Bearer ")
    assert len(label_studio.asked("POST", "/api/token/refresh/")) == 1


def test_an_access_token_that_ran_out_is_renewed_and_the_request_repeated(label_studio, project):
    task = label_studio.add_tasks(project, ["s3://b/1.jpg"])[0]
    with LabelStudio(label_studio.url, label_studio.personal_token()) as client:
        client.whoami()
        label_studio.revoke()
        client.create_prediction(task, DOCUMENT)
    assert len(label_studio.predictions(task)) == 1
    assert len(label_studio.asked("POST", "/api/token/refresh/")) == 2


def test_an_access_token_is_renewed_before_it_runs_out(label_studio):
    label_studio.access_seconds = 0.0
    with LabelStudio(label_studio.url, label_studio.personal_token()) as client:
        with pytest.raises(TokenRefusedError):  # expired as it was given
            client.whoami()
        label_studio.access_seconds = 300.0
        client.whoami()
        client.whoami()
    assert [request.path for request in label_studio.requests[-3:]] == [
        "/api/token/refresh/",
        "/api/current-user/whoami",
        "/api/current-user/whoami",
    ]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda _: "wrong", TokenRefusedError, "copy it again"),
        (lambda studio: studio.personal_token(seconds=-5), TokenExpiredError, "has expired"),
        (lambda _: jwt("access", -5), TokenShortLivedError, "personal access token"),
        (lambda _: jwt("refresh", 100), TokenRefusedError, "Token is invalid"),
        (lambda studio: studio.personal_token().rpartition(".")[0], TokenRefusedError, "truncated personal"),
    ],
    ids=["unknown", "expired", "short-lived", "another instance's", "truncated"],
)
def test_each_bad_token_has_its_own_error(label_studio, make, error, words):
    with LabelStudio(label_studio.url, make(label_studio)) as client, pytest.raises(error, match=words):
        client.whoami()


def test_disabled_legacy_tokens_have_their_own_error(label_studio, client):
    label_studio.legacy_tokens = False
    with pytest.raises(LegacyTokenRefusedError, match="personal access token"):
        client.whoami()


def test_a_label_studio_below_a_path_is_asked_below_it():
    with FakeLabelStudio(prefix="/label-studio") as studio:
        with LabelStudio(studio.url + "/", studio.personal_token()) as client:
            assert client.version() == "1.23.2"
            assert client.whoami()["id"] == 1
        with (
            LabelStudio(studio.url.removesuffix("/label-studio"), studio.token) as client,
            pytest.raises(NotLabelStudioError, match="path"),
        ):
            client.whoami()


def test_a_project_names_itself_as_to_an_ml_backend(client, project):
    shown = client.project(project)
    assert shown.ls_project_key == f"{project}.1795271012"
    assert (shown.title, shown.model_version) == ("Shelves", "")
    assert [listed.number for listed in client.projects()] == [project]


def test_pages_of_tasks_go_by_id_and_leave_out_those_that_have_the_version(label_studio, client, project):
    tasks = label_studio.add_tasks(project, [f"s3://b/{number}.jpg" for number in range(7)])
    client.create_prediction(tasks[1], DOCUMENT)
    page = client.tasks(project, limit=3, lacking=VERSION)
    assert [number for number, _ in page.tasks] == [tasks[0], tasks[2], tasks[3]]
    assert page.total == 6
    label_studio.delete_task(tasks[0])
    page = client.tasks(project, after=tasks[3], limit=3, lacking=VERSION)
    assert [number for number, _ in page.tasks] == tasks[4:7]
    assert page.tasks[0][1] == {"image": "s3://b/4.jpg"}
    assert len(client.tasks(project).tasks) == 6
    assert client.versions(project) == {VERSION: 1}


def test_predictions_are_stored_listed_and_deleted(label_studio, client, project):
    task, other = label_studio.add_tasks(project, ["s3://b/1.jpg", "s3://b/2.jpg"])
    first, second = client.create_prediction(task, DOCUMENT), client.create_prediction(task, DOCUMENT)
    assert client.predictions(project=project, task=task) == [first, second]
    assert (first.ls_project_id, first.model_version) == (project, VERSION)
    client.delete_prediction(second.id)
    client.delete_prediction(second.id)
    assert [row["id"] for row in label_studio.predictions()] == [first.id]
    assert client.predictions(project=project, task=other) == []


def test_a_version_that_no_prediction_has_cannot_be_shown(label_studio, client, project):
    with pytest.raises(RejectedError, match="Model version doesn't exist"):
        client.set_model_version(project, VERSION)
    client.create_prediction(label_studio.add_tasks(project, ["s3://b/1.jpg"])[0], DOCUMENT)
    client.set_model_version(project, VERSION)
    assert client.project(project).model_version == VERSION


def test_deleted_tasks_and_projects_are_told_from_other_refusals(client, project):
    with pytest.raises(TaskNotFoundError):
        client.create_prediction(99, DOCUMENT)
    with pytest.raises(TaskNotFoundError):
        client.predictions(project=project, task=99)
    with pytest.raises(ProjectNotFoundError):
        client.tasks(99)
    with pytest.raises(TaskNotFoundError):
        client.task(99)
    with pytest.raises(ProjectNotFoundError):
        client.project(99)


def test_a_refused_prediction_says_why(label_studio, client, project):
    label_studio.validates = True
    task = label_studio.add_tasks(project, ["s3://b/1.jpg"])[0]
    region = {"from_name": "brush", "to_name": "image", "type": "brushlabels", "value": {"brushlabels": ["cow"]}}
    with pytest.raises(RejectedError, match="cow") as refused:
        client.create_prediction(task, json.dumps({"model_version": VERSION, "result": [region]}))
    assert not refused.value.retryable


@pytest.mark.parametrize("status", [500, 502, 504, 408])
def test_a_servers_trouble_leaves_a_change_uncertain_and_a_question_unanswered(label_studio, client, project, status):
    task = label_studio.add_tasks(project, ["s3://b/1.jpg"])[0]
    label_studio.fail("POST", "/api/predictions/", status=status)
    label_studio.fail("GET", "/api/predictions/", status=status)
    with pytest.raises(OutcomeUncertainError):
        client.create_prediction(task, DOCUMENT)
    with pytest.raises(LabelStudioUnreachableError) as unanswered:
        client.predictions(project=project, task=task)
    assert type(unanswered.value) is LabelStudioUnreachableError


def test_a_change_whose_answer_never_comes_is_uncertain(label_studio, project):
    task = label_studio.add_tasks(project, ["s3://b/1.jpg"])[0]
    with LabelStudio(label_studio.url, label_studio.token, read_seconds=0.3) as client:
        label_studio.fail("POST", "/api/predictions/", drop="after", times=1)
        with pytest.raises(OutcomeUncertainError):
            client.create_prediction(task, DOCUMENT)
        label_studio.fail("POST", "/api/predictions/", delay=0.6, times=1)
        with pytest.raises(OutcomeUncertainError):
            client.create_prediction(task, DOCUMENT)
        label_studio.fail("POST", "/api/predictions/", status=201, body=b"<html>", times=1)
        with pytest.raises(OutcomeUncertainError):
            client.create_prediction(task, DOCUMENT)
    assert len(label_studio.predictions(task)) == 1  # the slow one comes later


def test_a_change_that_was_never_sent_is_not_uncertain():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with LabelStudio(f"http://127.0.0.1:{port}", "x") as client, pytest.raises(LabelStudioUnreachableError) as error:
        client.create_prediction(1, DOCUMENT)
    assert type(error.value) is LabelStudioUnreachableError
    assert error.value.retryable


@pytest.mark.parametrize(("retry_after", "wait"), [("7", 7.0), ("nonsense", 0.0), ("nan", 0.0), ("999999", 3600.0)])
def test_a_busy_server_says_how_long_to_wait(label_studio, client, retry_after, wait):
    label_studio.fail("GET", "/api/", status=429, headers={"Retry-After": retry_after})
    with pytest.raises(LabelStudioBusyError) as busy:
        client.whoami()
    assert busy.value.wait == wait


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"status": 302, "headers": {"Location": "https://other/x?token=1"}, "body": b""}, NotLabelStudioError),
        ({"status": 200, "body": b"<html>welcome"}, NotLabelStudioError),
        ({"status": 200, "body": []}, NotLabelStudioError),
        ({"status": 403, "body": {"detail": "no"}}, ForbiddenError),
        ({"status": 403, "body": {"detail": "URL resolves to a reserved network address"}}, AddressBlockedError),
        ({"status": 413, "body": b"<html>"}, RejectedError),
    ],
)
def test_other_answers_have_their_own_errors(label_studio, client, fault, error):
    label_studio.fail("GET", "/api/", **fault)
    with pytest.raises(error) as raised:
        client.whoami()
    assert isinstance(raised.value, LabelStudioError)
    assert label_studio.token not in str(raised.value)
    assert "token=1" not in str(raised.value)


def test_proxies_of_the_environment_do_not_get_the_token(label_studio, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with LabelStudio(label_studio.url, label_studio.token) as client:
        assert client.whoami()["id"] == 1


def test_a_backend_is_connected_with_its_webhook_unless_ssrf_protection_stops_it(label_studio, client, project):
    fields = {"url": "http://127.0.0.1:9090", "project": project, "title": "CaR", "is_interactive": True}
    label_studio.ssrf = "webhook"
    with pytest.raises(AddressBlockedError, match="SSRF_PROTECTION_ENABLED"):
        client.add_backend(fields)
    assert (len(client.backends(project)), client.webhooks(project)) == (1, [])
    label_studio.ssrf = None
    made = client.add_backend(fields | {"extra_params": {"background": ["sky"]}})
    hook = client.webhooks(project)[0]
    assert hook["url"] == "http://127.0.0.1:9090/webhook"
    client.change_webhook(hook["id"], {"headers": {"X-Car-Token": "secret"}})
    assert label_studio.hooks[hook["id"]]["headers"] == {"X-Car-Token": "secret"}
    assert client.change_backend(made["id"], {"title": "Other"})["title"] == "Other"
