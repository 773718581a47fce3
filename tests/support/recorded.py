"""Requests of Label Studio 1.23.2 as it sends them (tests/contract/recorded), and a backend that takes them.

The secrets in them are called canary-…: none may be found again in a log or a row.
"""

import json

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from api.app import create_app
from db import model_registry
from db.label_studio import outbox
from tests.support.label_studio_rows import WEIGHTS, ProjectRows
from tests.support.paths import ROOT
from tests.support.rows import LEASE, Rows

FOLDER = ROOT / "tests" / "contract" / "recorded"
SMART_REQUESTS = tuple(
    f"{tool}_{labels}"
    for tool, each in {
        "keypoint": ("own", "labels"),
        "keypoint_twice": ("labels",),
        "rectangle": ("own", "labels", "alias"),
        "rectangle_twice": ("labels",),
        "rectangle_three_points": ("labels",),
        "brush": ("own", "labels"),
        "ellipse": ("own", "labels"),
        "polygon": ("own", "labels"),
    }.items()
    for labels in each
)
"""What the editor sends of smart tools (recorded/smart): with own labels, a `Labels` control's, or its aliases."""
USER, PASSWORD, TOKEN = "car", "pässword", "the webhook's secret"
BASIC = (USER.encode(), PASSWORD.encode("latin-1"))
"""As Python's requests sends it, which Label Studio uses."""
INSTANCE = "http://localhost:8080"
STAMP = "2.1795220368"


def recorded(name, **changes):
    """A body, with some of its fields replaced."""
    return json.loads((FOLDER / f"{name}.json").read_text()) | changes


def tasks_of(uris, first=151):
    """Tasks with these pictures, as they are in a request for predictions."""
    pattern = recorded("predict")["tasks"][0]
    return [pattern | {"id": first + place, "data": {"image": uri}} for place, uri in enumerate(uris)]


@pytest.fixture
def face_settings(api_settings):
    """Of a service with a name, a password and a webhook secret."""
    secrets = {"basic_auth_pass": SecretStr(PASSWORD), "webhook_secret": SecretStr(TOKEN)}
    return api_settings.model_copy(update={"basic_auth_user": USER, **secrets})


@pytest.fixture
def face(face_settings):
    """A client that Label Studio's requests come from."""
    with TestClient(create_app(face_settings)) as client:
        client.auth = BASIC
        yield client


class Workers(ProjectRows):
    """What gpu and io workers do with everything that was asked, by the functions of db/."""

    def __init__(self, engine):
        Rows.__init__(self, engine)
        self.do(model_registry.register, model_registry.ANY, model_registry.ANY, WEIGHTS)

    def render(self, result=({"type": "brushlabels"},)):
        """Every prediction that is owed gets a document with this result; their tasks."""
        mine = self.do(outbox.claim, "io", limit=10_000, lease=LEASE, instance=None)
        made = [
            (one, json.dumps({"model_version": one.model_version, "score": 0.5, "result": list(result)}), 0.5)
            for one in mine
        ]
        self.do(outbox.store_rendered, "io", made, keep=False)
        return [one.ls_task_id for one in mine]

    def label(self, **more):
        """Everything that is queued is done and rendered."""
        self.finish()
        return self.render(**more)


@pytest.fixture
def workers(rows):
    return Workers(rows.engine)


@pytest.fixture
def ready(face, workers):
    """The backend as Label Studio finds it after /setup, where a worker once was."""
    assert workers
    assert face.post("/setup", json=recorded("setup")).status_code == 200
    return face
