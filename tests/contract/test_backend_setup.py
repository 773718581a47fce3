"""GET / and /health, POST /setup: what Label Studio asks before it asks for anything else."""

import re
import time
from contextlib import contextmanager

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import event
from structlog.testing import capture_logs

from api.app import create_app
from car.label_studio.project_config import build_project_config
from car.model_version import label_studio_version
from db import model_registry
from tests.support.label_studio_rows import OTHER_WEIGHTS, WEIGHTS, config
from tests.support.recorded import BASIC, INSTANCE, STAMP, recorded


def setup(face, **changes):
    answer = face.post("/setup", json=recorded("setup", **changes))
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_version_is_told_and_the_project_remembered(face, workers):
    plan = build_project_config(recorded("setup")["schema"], {}, preset="voc")
    version = label_studio_version(WEIGHTS, plan.recipe, plan.vocabulary_digest, plan.region_digest)
    assert setup(face) == {"model_version": version, "problems": []}
    assert setup(face)["model_version"] == version
    [row] = workers.sql("SELECT * FROM project")
    assert (row.instance, row.ls_project_id, row.ls_project_key) == (INSTANCE, 2, STAMP)
    assert row.setup_at is not None
    assert row.vocabulary_digest == plan.vocabulary_digest


def test_the_version_changes_with_labels_regions_parameters_and_weights(face, workers):
    versions = [
        setup(face),
        setup(face, schema=config(["cat", "dog", "hen"])),
        setup(face, schema=config(["cat", "dog"], control="PolygonLabels")),
        setup(face, extra_params={"background": ["wall"]}),
        setup(face, extra_params='{"background": ["floor"]}'),
    ]
    workers.do(model_registry.register, model_registry.ANY, model_registry.ANY, OTHER_WEIGHTS)
    versions.append(setup(face))
    assert len({one["model_version"] for one in versions}) == len(versions)


def test_a_label_that_no_model_can_read_is_refused_at_setup(face):
    answer = face.post("/setup", json=recorded("setup", schema=config(["cat", "1 " * 90])))
    assert answer.status_code == 422
    assert "tokens" in answer.json()["detail"]


@pytest.mark.usefixtures("rows")
def test_without_any_worker_the_models_that_lie_here_are_told(face_settings, tiny_clips):
    versions = {}
    for models in ("demo", str(tiny_clips), "openai", "/nowhere"):
        with TestClient(create_app(face_settings.model_copy(update={"models": models}))) as client:
            client.auth = BASIC
            versions[models] = setup(client)["model_version"]
    assert versions["openai"] == versions["/nowhere"]
    assert "+00000000." in versions["openai"]
    assert len(set(versions.values())) == 3


def test_where_label_studio_is_configured_its_address_counts(face_settings, rows):
    with TestClient(create_app(face_settings.model_copy(update={"label_studio_url": "http://ls:8080"}))) as client:
        client.auth = BASIC
        setup(client)
    assert rows.sql("SELECT instance FROM project") == [("http://ls:8080",)]


def test_labels_that_cannot_be_mapped_are_told_beside_the_version(face):
    schema = (
        '<View><Image name="image" value="$image"/><BrushLabels name="a" toName="image"><Label value="cat"/>'
        '</BrushLabels><Text name="t" value="$t"/><Labels name="b" toName="t"><Label value="word"/></Labels></View>'
    )
    answer = setup(face, schema=schema)
    assert answer["model_version"]
    assert answer["problems"]
    assert all(one["code"] and one["detail"] for one in answer["problems"])


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "<View></View>"},
        {"schema": "no XML"},
        {"schema": '<!DOCTYPE x [<!ENTITY y "z">]><View>&y;</View>'},
        {"schema": '<View><Image name="image" value="$image"/></View>'},
        {"extra_params": {"preset": "no such"}},
        {"extra_params": {"set": {"eta": "much"}}},
    ],
)
def test_a_configuration_that_can_show_no_mask_is_refused_with_the_reason(face, rows, changes):
    setup(face)
    with capture_logs() as logged:
        answer = face.post("/setup", json=recorded("setup", **changes))
    assert answer.status_code == 422
    assert answer.json()["code"] in ("labeling_config_invalid", "recipe_invalid", "vocabulary_invalid")
    assert [line["event"] for line in logged if line["log_level"] == "warning"] == ["project refused"]
    [row] = rows.sql("SELECT problems FROM project")
    assert row.problems[0]["code"] == answer.json()["code"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"project": "x.y", "schema": "<View/>"}', b'{"project": "2.1"}'])
def test_what_is_no_request_of_label_studio_is_refused(face, body):
    answer = face.post("/setup", content=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")


def test_without_the_database_there_is_no_version_and_health_is_up(face_settings):
    away = face_settings.model_copy(update={"database_url": SecretStr("postgresql://car:hidden@127.0.0.1:1/car")})
    with TestClient(create_app(away)) as client:
        client.auth = BASIC
        answer = client.post("/setup", json=recorded("setup"))
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unreachable")
        times = []
        for _ in range(50):
            begun = time.perf_counter()
            assert client.get("/health").json() == {"status": "UP", "model_class": "CarLabeler"}
            times.append(time.perf_counter() - begun)
        assert sorted(times)[25] < 0.02


@contextmanager
def traced(engine, file):
    """Yields how many times an answer of PostgreSQL was waited for, on connections made since."""
    with file.open("w") as written:
        event.listen(engine, "connect", lambda connection, _: connection.pgconn.trace(written.fileno()))
        yield lambda: len(re.findall(r"\tF\t\d+\t(?:Query|Sync)", file.read_text()))


def test_a_project_as_it_was_costs_one_question_and_another_for_the_time_every_few_seconds(face, workers, tmp_path):
    backend = face.app.state.backend
    with (
        traced(backend.probes, tmp_path / "reads") as reads,
        traced(backend.database, tmp_path / "changes") as changes,
    ):
        [version] = {setup(face)["model_version"] for _ in range(9)}  # by then its query is prepared
        read, changed = reads(), changes()
        assert changed > 0
        for _ in range(3):
            assert setup(face)["model_version"] == version
        assert (reads(), changes()) == (read + 3, changed)
        workers.sql("UPDATE project SET setup_at = now() - interval '1 minute' RETURNING id")
        assert setup(face)["model_version"] == version
        assert (reads(), changes()) == (read + 5, changed)
        [row] = workers.sql("SELECT setup_at > now() - interval '5 seconds' AS fresh FROM project")
        assert row.fresh
        backend.close()  # they write to files that are closed now


def test_connections_that_the_server_has_ended_are_replaced_unseen(face, workers):
    version = setup(face)
    setup(face)
    ended = workers.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
    assert len(ended) > 1
    assert setup(face) == version
