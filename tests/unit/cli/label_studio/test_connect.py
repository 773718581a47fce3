"""`car label-studio connect`, with a stand-in for Label Studio."""

import json

import pytest
from typer.testing import CliRunner

from cli.label_studio.backend_reconcile import ACTIONS
from cli.main import app

URL = "http://car.example:9090"
BASIC = {"BASIC_AUTH_USER": "car", "BASIC_AUTH_PASS": "a password of ours"}
SECRET = {"CAR_WEBHOOK_SECRET": "a secret of ours"}


class Connect:
    def __init__(self, studio, folder):
        self.studio, self.folder = studio, folder
        self.project = studio.add_project()

    def __call__(self, *options, code=0, project=None, **environment):
        known = {"LABEL_STUDIO_URL": self.studio.url, "LABEL_STUDIO_API_KEY": self.studio.token, "CAR_API_URL": URL}
        known |= dict.fromkeys(("CAR_API_KEY", "CAR_PRESET", *BASIC, *SECRET)) | {"CAR_DATA_DIR": str(self.folder)}
        number = str(project or self.project)
        words = ["label-studio", "connect", "--project", number, *options]
        ran = CliRunner().invoke(app, words, env=known | environment)
        assert ran.exit_code == code, ran.output
        assert "Traceback" not in ran.output
        for value in (*BASIC.values(), *SECRET.values(), self.studio.token):
            assert value == "car" or value not in ran.output
        return ran

    @property
    def changes(self):
        """Requests that change something, so far."""
        return [one for one in self.studio.requests if one.method != "GET" and "token" not in one.path]


@pytest.fixture
def connect(label_studio, tmp_path):
    return Connect(label_studio, tmp_path)


def test_a_project_gets_a_backend_and_a_webhook_with_the_secret(connect):
    ran = connect(**BASIC, **SECRET)
    (backend,) = connect.studio.backends.values()
    assert (backend["url"], backend["title"], backend["is_interactive"]) == (URL, "CaR Labeler", True)
    assert (backend["auth_method"], backend["basic_auth_user"]) == ("BASIC_AUTH", "car")
    assert backend["basic_auth_pass"] == BASIC["BASIC_AUTH_PASS"]
    (hook,) = connect.studio.hooks.values()  # the one that Label Studio made by itself
    assert hook["url"] == f"{URL}/webhook"
    assert hook["headers"] == {"X-Car-Token": SECRET["CAR_WEBHOOK_SECRET"]}
    assert (hook["send_for_all_actions"], tuple(hook["actions"])) == (False, ACTIONS)
    assert "Label Studio 1.23.2" in ran.stderr
    assert "cat" in ran.stdout
    assert "brush" in ran.stdout
    assert "backfill --project 1" in ran.stderr


def test_labels_are_shown_with_what_is_asked_and_marked_where_that_is_not_what_annotators_read(connect):
    labels = (
        '<Label value="yellow square" hint="brush" alias="1_brush"/><Label value="can" predicted_values="pepsi can"/>'
        '<Label value="07" alias="bolt"/><Label value="bottle"/>'
    )
    brush = f'<BrushLabels name="brush" toName="image">{labels}</BrushLabels>'
    number = connect.studio.add_project(f'<View><Image name="image" value="$image"/>{brush}</View>')
    lines = [line.split("  ") for line in connect("--no-webhook", project=number).stdout.splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert ["label", "regions carry", "asked as", "shown by"] in cells
    assert ["yellow square", "1_brush", "yellow square", "brush “brush”"] in cells
    assert ["can", "can", "pepsi can (predicted_values)", "brush “brush”"] in cells
    assert ["07", "bolt", "bolt (alias)", "brush “brush”"] in cells
    assert ["bottle", "bottle", "bottle", "brush “brush”"] in cells
    told = json.loads(connect("--no-webhook", "--json", project=number).stdout)["labels"]
    assert told[0] == {
        "label": "yellow square", "region_label": "1_brush", "prompts": ["yellow square"], "prompt_source": "value"
    }  # fmt: skip
    assert [one["prompt_source"] for one in told] == ["value", "predicted_values", "alias", "value"]


def test_a_second_time_nothing_is_changed_and_that_is_said(connect):
    connect(**BASIC, **SECRET)
    before = len(connect.changes)
    ran = connect(**BASIC, **SECRET)
    assert len(connect.changes) == before
    assert "nothing was changed" in ran.stderr
    told = json.loads(connect("--json", **BASIC, **SECRET).stdout)
    assert (told["backend"]["how"], told["webhook"]["how"], told["problems"]) == ("unchanged", "unchanged", [])


def test_only_what_differs_is_changed(connect):
    connect(**BASIC, **SECRET)
    ran = connect(**BASIC | {"CAR_WEBHOOK_SECRET": "another one"})
    assert "changed (headers)" in ran.stderr
    assert connect.studio.hooks[1]["headers"] == {"X-Car-Token": "another one"}
    ran = connect("--set", "theta=0.4", "--preset", "coco", "--background", "sky,sea", **BASIC, **SECRET)
    assert "changed (extra_params)" in ran.stderr
    extra = {"preset": "coco", "background": ["sky", "sea"], "set": {"theta": "0.4"}}
    assert connect.studio.backends[1]["extra_params"] == extra
    ran = connect("--title", "Masks", **BASIC, **SECRET)
    assert "changed (title)" in ran.stderr
    assert (connect.studio.backends[1]["title"], connect.studio.backends[1]["extra_params"]) == ("Masks", extra)
    assert len(connect.studio.backends) == len(connect.studio.hooks) == 1


def test_a_backend_at_another_address_is_moved(connect):
    connect(**BASIC)
    ran = connect("--url", "http://elsewhere:9090/", **BASIC)
    assert "changed (url)" in ran.stderr
    assert [one["url"] for one in connect.studio.backends.values()] == ["http://elsewhere:9090"]


def test_a_webhook_that_someone_wrote_keeps_its_other_headers(connect):
    connect(**SECRET)
    connect.studio.hooks[1] |= {"headers": {"X-Trace": "1", "x-car-token": "old"}, "is_active": False}
    connect(**SECRET)
    hook = connect.studio.hooks[1]
    assert hook["headers"] == {"X-Trace": "1", "X-Car-Token": SECRET["CAR_WEBHOOK_SECRET"]}
    assert hook["is_active"] is True


def test_webhooks_are_left_alone_where_that_is_wished(connect):
    connect("--no-webhook", **SECRET)
    (hook,) = connect.studio.hooks.values()
    assert hook["headers"] == {}


def test_a_change_of_a_webhook_says_its_actions_for_label_studio_would_take_them_away(connect):
    connect(**SECRET)
    connect.studio.hooks[1]["headers"] = {}
    connect(**SECRET)
    (change,) = connect.studio.asked("PATCH", "/api/webhooks/")[-1:]
    assert change.body["actions"] == list(ACTIONS)


def test_a_change_of_a_backend_is_whole_for_label_studio_checks_it_like_a_new_one(connect):
    connect(**BASIC)
    connect("--title", "Masks", **BASIC)
    (change,) = connect.studio.asked("PATCH", "/api/ml/")
    assert {"url", "project", "auth_method", "basic_auth_user", "basic_auth_pass"} <= set(change.body)


@pytest.mark.parametrize("stops", ["backend", "webhook"])
def test_ssrf_protection_is_explained_with_both_variables(connect, stops):
    connect.studio.ssrf = stops
    ran = connect(**SECRET, code=2)
    assert "ML_BLOCK_LOCAL_IP=false" in ran.stderr
    assert "SSRF_PROTECTION_ENABLED=false" in ran.stderr
    assert ("is what is missing" in ran.stderr) == (stops == "webhook")
    connect.studio.ssrf = None  # as Label Studio is after the restart
    connect(**SECRET)
    assert len(connect.studio.backends) == len(connect.studio.hooks) == 1


def test_a_backend_that_label_studio_cannot_reach_is_said_so(connect):
    told = {"detail": "Validation error", "validation_errors": {"non_field_errors": ["Can't connect to ML backend"]}}
    connect.studio.fail("POST", "/api/ml", status=400, body=told)
    ran = connect(code=2)
    assert "Can't connect to ML backend" in ran.stderr
    assert "give --url" in ran.stderr


def test_a_wrong_password_is_said_so(connect):
    said = "Able to connect to ML Server, but authentication parameters were either not provided or are incorrect."
    told = {"detail": "Validation error", "validation_errors": {"non_field_errors": [said]}}
    connect.studio.fail("POST", "/api/ml", status=400, body=told)
    assert "refuses BASIC_AUTH_USER" in connect(**BASIC, code=2).stderr


def test_an_unusable_configuration_is_refused_before_anything_is_made(connect):
    number = connect.studio.add_project('<View><Text name="text" value="$text"/></View>')
    connect(project=number, code=2)
    assert connect.changes == []


def test_unknown_projects_tokens_and_addresses_are_said_so(connect):
    assert "no project 99" in connect(project=99, code=2).stderr
    assert "copy it again" in connect(code=2, LABEL_STUDIO_API_KEY="wrong").stderr
    assert "set LABEL_STUDIO_URL" in connect(code=2, LABEL_STUDIO_URL=None).stderr
    assert "is no address" in connect(code=2, LABEL_STUDIO_URL="localhost:8080").stderr
    assert "is no address" in connect("--url", "car:9090", code=2).stderr
    assert "set LABEL_STUDIO_API_KEY" in connect(code=2, LABEL_STUDIO_API_KEY=None).stderr


def test_a_personal_token_does_as_well(connect):
    connect(**SECRET, LABEL_STUDIO_API_KEY=connect.studio.personal_token())
    assert len(connect.studio.backends) == 1


def test_other_backends_that_are_asked_first_are_named(connect):
    connect.studio.add(connect.studio.backends, "backend", {"url": "http://sam:9090", "title": "SAM", "project": 1})
    assert "'SAM' comes before" in connect().stderr


def test_an_address_of_label_studios_own_kit_does_as_well(connect):
    environment = {"LABEL_STUDIO_URL": None, "LABEL_STUDIO_API_KEY": None}
    connect(**environment, LABEL_STUDIO_HOST=connect.studio.url, LABEL_STUDIO_ACCESS_TOKEN=connect.studio.token)
    assert len(connect.studio.backends) == 1
