"""`car doctor`: each injected fault, and the diagnosis it gets. The guide's table is held to the same codes."""

import json
import os
import re
import threading
from io import BytesIO

import pytest
import uvicorn
from PIL import Image
from typer.testing import CliRunner

from api.app import create_app
from api.settings import ApiSettings
from car.model_version import CODE_VERSION
from cli.doctor.diagnoses import DIAGNOSES, Verdict
from cli.main import app
from db import api_keys, model_registry
from db.label_studio import outbox, project_queries
from db.label_studio.projects import RequestKind
from db.queue import items, workers
from db.queue.items import FailedItem
from db.queue.workers import WorkerInfo
from tests.support.api_client import api_names
from tests.support.fake_label_studio import jwt
from tests.support.label_studio_rows import WEIGHTS, ProjectRows, config
from tests.support.paths import ROOT
from tests.support.rows import LEASE

GUIDE = ROOT / "docs" / "guide" / "label-studio.md"
NOWHERE = "http://127.0.0.1:9"
BASIC = {"BASIC_AUTH_USER": "car", "BASIC_AUTH_PASS": "a-password-of-ours"}
SECRET = "a-webhook-secret-of-ours"  # noqa: S105 - of a test
SSRF = "URL resolves to a reserved network address (block: 127.0.0.0/8)"
DENIED = "Able to connect to ML Server, but authentication parameters were either not provided or are incorrect."


def png(mode="PNG", orientation=None):
    exif = Image.Exif()
    if orientation:
        exif[274] = orientation
    out = BytesIO()
    Image.new("RGB", (40, 30), (200, 10, 10)).save(out, mode, exif=exif)
    return out.getvalue()


class Scene:
    """A service, a Label Studio and a connected project of which nothing is wrong, until a test sees to that."""

    def __init__(self, environment, database, studio, bucket, folder):
        self.studio, self.bucket, self.database = studio, bucket, database
        self.rows = ProjectRows(database)
        self.rows.sql("DELETE FROM project")  # of another Label Studio
        self.rows.note(instance=studio.url, ls_project_id=1)
        self.api = {name: value for name, value in environment.items() if name in api_names()} | BASIC
        self.api |= {"CAR_WEBHOOK_SECRET": SECRET, "CAR_PRESET": "demo"}
        key = self.rows.do(lambda session: api_keys.create(session, "doctor", [api_keys.Scope.ADMIN])[1])
        self.mine = {**environment, **self.api, "CAR_API_KEY": key, "CAR_DATA_DIR": str(folder), "CAR_PRESET": "demo"}
        self.mine |= {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": studio.token}
        self.project = studio.add_project(config())
        self.task = studio.add_tasks(self.project, [bucket.put("a.png", png())])[0]
        self.rows.note(instance=studio.url, ls_project_id=1, kind=RequestKind.WEBHOOK)
        for queue in ("gpu", "io"):
            self.rows.do(workers.heartbeat, WorkerInfo(f"host:{queue}", queue, "cpu", {}, CODE_VERSION))
        self.rows.do(workers.record_maintenance, CODE_VERSION)
        self.rows.do(model_registry.register, "*", "*", WEIGHTS)

    @property
    def backend(self):
        return self.studio.backends[1]

    @property
    def hook(self):
        return self.studio.hooks[1]

    def connect(self):
        self.car("label-studio", "connect", "--project", str(self.project), code=0)
        self.backend["model_version"] = self.version

    @property
    def version(self):
        from db.label_studio import projects  # noqa: PLC0415 - a question of one test after the other

        return self.rows.do(
            lambda session: project_queries.progress(session, projects.find(session, 1).row).model_version
        )

    def car(self, *words, code):
        environment = {name: None for name in os.environ if name.startswith(("AWS", "CAR_", "LABEL_"))} | self.mine
        ran = CliRunner().invoke(app, list(words), env=environment)
        assert ran.exit_code == code, ran.output
        assert "Traceback" not in ran.output
        for name, value in self.mine.items():
            if value and name.endswith(("API_KEY", "PASS", "SECRET", "ACCESS_KEY")):
                assert value not in ran.output, name
        return ran

    def findings(self, *, project=1, code):
        words = ["doctor", "--json", *(["--project", str(project)] if project else [])]
        # The API's log lines are of this process too.
        return [json.loads(line) for line in self.car(*words, code=code).stdout.splitlines() if line.startswith("{")]


@pytest.fixture
def scene(engine_environment, database, label_studio, bucket, tmp_path):
    made = Scene(engine_environment, database, label_studio, bucket, tmp_path / "data")
    server = uvicorn.Server(uvicorn.Config(create_app(ApiSettings(**made.api)), port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        port = server.servers[0].sockets[0].getsockname()[1]
        made.mine["CAR_API_URL"] = f"http://127.0.0.1:{port}"
        made.server = server
        made.connect()
        yield made
    finally:
        server.should_exit = True
        thread.join()


def test_where_all_is_well_nothing_is_wrong(scene):
    found = scene.findings(code=0)
    assert {one["verdict"] for one in found} == {"good"}, [one for one in found if one["verdict"] != "good"]
    assert len(found) >= 18
    assert "through" not in found[-1]["detail"]
    assert "40 x 30" in found[-1]["detail"]
    shown = scene.car("doctor", "--project", "1", code=0).stdout
    assert "no problem found" in shown


def _no_label_studio(scene):
    scene.mine |= {"LABEL_STUDIO_URL": "", "LABEL_STUDIO_API_KEY": ""}


def _token(make):
    return lambda scene: scene.mine.update(LABEL_STUDIO_API_KEY=make(scene))


def _set(**changes):
    return lambda scene: scene.mine.update(changes)


def _sql(statement):
    return lambda scene: scene.rows.sql(statement)


def _project(**changes):
    return lambda scene: scene.studio.projects[1].update(changes)


def _backend(**changes):
    return lambda scene: scene.backend.update(changes)


def _hook(**changes):
    return lambda scene: scene.hook.update(changes)


def _refuses(path, status, body, **changes):
    """A backend or webhook that Label Studio would not store again."""

    def inject(scene):
        scene.backend.update(changes)
        scene.studio.fail("PATCH", path, status=status, body=body)

    return inject


def _version_page(body, status=200):
    return lambda scene: scene.studio.fail("GET", "/api/version", status=status, body=body)


def _image(address):
    return lambda scene: scene.studio.tasks[scene.task]["data"].update(image=address)


def _object(data):
    return lambda scene: scene.bucket.put("a.png", data)


def _another_backend_first(scene):
    other = {**scene.backend, "id": 9, "url": "http://sam:9090", "title": "SAM"}
    scene.studio.backends = {9: other, **scene.studio.backends}


def _known_elsewhere(scene):
    scene.rows.note(instance="http://localhost:1", ls_project_id=5)


def _old_prediction(scene):
    row = {"task": scene.task, "project": 1, "model_version": "car-0.0.9+a.b.c.d", "result": [], "score": 0.5}
    scene.studio.add(scene.studio.stored, "prediction", row)


def _failed_image(scene):
    scene.rows.ask(1, known=scene.rows.note(instance=scene.studio.url, ls_project_id=1))
    (mine,) = scene.rows.do(items.claim, "w", limit=1, lease=LEASE)
    scene.rows.do(items.fail, "w", [FailedItem(mine, "image_corrupt", "broken", retryable=False)])


def _failed_prediction(scene):
    scene.rows.ask(1, known=scene.rows.note(instance=scene.studio.url, ls_project_id=1))
    scene.rows.finish()
    (one,) = scene.rows.do(outbox.claim, "io", limit=1, lease=LEASE, instance=scene.studio.url)
    scene.rows.do(outbox.fail, "io", one, code="prediction_rejected", detail="no such label")


def _blocked_webhook(scene):
    scene.rows.sql("UPDATE project SET webhook_at = NULL")
    scene.studio.fail("PATCH", "/api/webhooks/", status=403, body={"detail": SSRF})


def _unmapped(scene):
    config = scene.studio.projects[1]["label_config"]
    scene.studio.projects[1]["label_config"] = config.replace(
        '<Label value="dog"/>', '<Label value="dog" alias=""/><Label/>'
    )


FAULTS = {
    "settings_invalid": _set(S3_BUCKET=""),
    "database_unreachable": _set(DATABASE_URL="postgresql://car:x@127.0.0.1:9/car"),
    "schema_outdated": _sql("UPDATE alembic_version SET version_num = 'an-older-one'"),
    "broker_unreachable": _set(CELERY_BROKER_URL="redis://127.0.0.1:9/0"),
    "objects_unusable": _set(S3_BUCKET="a-bucket-that-is-not-there"),
    "gpu_worker_missing": _sql("DELETE FROM worker WHERE queue = 'gpu'"),
    "io_worker_missing": _sql("DELETE FROM worker WHERE queue <> 'gpu'"),
    "scheduler_missing": _sql("UPDATE worker SET seen_at = seen_at - interval '1 hour' WHERE queue = 'beat'"),
    "weights_unknown": _sql("DELETE FROM worker_model"),
    "api_unreachable": _set(CAR_API_URL=NOWHERE),
    "api_key_refused": _set(CAR_API_KEY="car_unknown"),
    "basic_auth_refused": _set(BASIC_AUTH_PASS="another"),  # noqa: S106 - of a test
    "label_studio_unset": _no_label_studio,
    "label_studio_unreachable": _set(LABEL_STUDIO_URL=NOWHERE),
    "not_label_studio": _version_page(b"<!doctype html><title>Welcome to nginx</title>"),
    "label_studio_old": _version_page({"release": "1.9.2"}),
    "token_unknown": _token(lambda _: "0123456789012345678901234567890123456789"),
    "token_legacy_disabled": lambda scene: setattr(scene.studio, "legacy_tokens", False),
    "token_expired": _token(lambda scene: scene.studio.personal_token(seconds=-60)),
    "token_short_lived": _token(lambda _: jwt("access", -60)),
    "instance_differs": _known_elsewhere,
    "project_missing": lambda scene: scene.studio.projects.clear(),
    "project_unknown": _sql("DELETE FROM project"),
    "labeling_config_invalid": _project(label_config='<View><Text name="t" value="$t"/></View>'),
    "labels_unmapped": _unmapped,
    "backend_missing": lambda scene: scene.studio.backends.clear(),
    "backend_elsewhere": _backend(url="http://elsewhere:9090"),
    "backend_blocked": _refuses("/api/ml/", 403, {"detail": SSRF}, state="DI", readable_state="Disconnected"),
    "backend_disconnected": _backend(state="DI", readable_state="Disconnected"),
    "backend_password": _refuses("/api/ml/", 400, {"validation_errors": {"non_field_errors": [DENIED]}}, state="DI"),
    "backend_error": _backend(state="ER", error_message="500 Server Error"),
    "backend_not_first": _another_backend_first,
    "backend_passive": _backend(is_interactive=False),
    "version_differs": _backend(model_version="car-0.0.9+a.b.c.d"),
    "predictions_outdated": _old_prediction,
    "predictions_failed": _failed_prediction,
    "images_failed": _failed_image,
    "other_predictions_shown": _project(model_version="SAM"),
    "webhook_missing": lambda scene: scene.studio.hooks.clear(),
    "webhook_elsewhere": _hook(url="http://elsewhere:9090/webhook"),
    "webhook_inactive": _hook(is_active=False),
    "webhook_secret": _hook(headers={}),
    "webhook_actions": _hook(actions=["TASKS_CREATED"]),
    "webhook_blocked": _blocked_webhook,
    "tasks_missing": lambda scene: scene.studio.tasks.clear(),
    "image_key_missing": lambda scene: scene.studio.tasks[scene.task].update(data={"photo": "s3://a/b.png"}),
    "s3_unresolved": _image("s3://a-bucket-that-is-not-there/a.png"),
    "image_refused": _image("http://10.0.0.1/a.png"),
    "image_unreachable": _image("/data/upload/1/gone.png"),
    "image_unreadable": _object(b"GIF89a, or so it says"),
    "image_rotated": _object(png("JPEG", orientation=6)),
}
OPEN = {"backend_open"}
"""Of an API that is started otherwise: a test of its own."""


def test_every_diagnosis_has_a_fault_that_it_is_given_for():
    assert set(FAULTS) | OPEN == set(DIAGNOSES)


@pytest.mark.parametrize("code", FAULTS)
def test_a_fault_gets_its_diagnosis_and_what_to_do(scene, code):
    FAULTS[code](scene)
    wrong = DIAGNOSES[code].verdict is Verdict.WRONG
    found = scene.findings(project=99 if code == "project_missing" else 1, code=int(wrong))
    given = {one["code"] for one in found} - {None}
    assert code in given
    finding = next(one for one in found if one["code"] == code)
    assert finding["do"] == DIAGNOSES[code].do
    assert finding["detail"]
    # One fault is not taken for others; what depends on it is not looked at, or suffers from the same.
    assert given <= {code} | ALSO.get(code, set()), given


ALSO = {
    "io_worker_missing": {"scheduler_missing"},  # an io worker is who answers beat
    "weights_unknown": {"version_differs"},
    "project_unknown": {"webhook_blocked"},
    "backend_missing": {"other_predictions_shown"},
    "backend_elsewhere": {"webhook_elsewhere"},
    "api_unreachable": {"backend_elsewhere", "webhook_elsewhere"},
}
"""Other diagnoses that a fault causes."""


def test_an_api_without_basic_auth_is_reported(scene):
    settings = {name: value for name, value in scene.api.items() if name not in BASIC}
    server = uvicorn.Server(uvicorn.Config(create_app(ApiSettings(**settings)), port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    scene.mine["CAR_API_URL"] = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    found = scene.findings(project=None, code=0)
    server.should_exit = True
    thread.join()
    assert "backend_open" in {one["code"] for one in found}


def test_without_label_studio_the_service_alone_is_looked_at(scene):
    _no_label_studio(scene)
    found = scene.findings(project=None, code=0)
    assert found[-1] == {
        "check": "Label Studio",
        "verdict": "skipped",
        "detail": "LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY not set",
        "code": None,
        "do": None,
    }


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("s3://{bucket}/a.png", "with this service's credentials"),
        ("s3://elsewhere/a.png", "through Label Studio's storage"),
        ("/data/upload/1/a.png", "from Label Studio"),
        ("data:image/png;base64,{inline}", "embedded in the task"),
    ],
)
def test_it_says_how_an_image_was_read(scene, address, says):
    from base64 import b64encode  # noqa: PLC0415 - a part of one case

    here = {"Bucket": scene.bucket.name, "Key": "a.png"}
    signed = scene.bucket.client.generate_presigned_url("get_object", Params=here)
    scene.studio.files |= {(scene.task, "s3://elsewhere/a.png"): signed, "/data/upload/1/a.png": png()}
    given = address.format(bucket=scene.bucket.name, inline=b64encode(png()).decode())
    scene.studio.tasks[scene.task]["data"]["image"] = given
    assert says in scene.findings(code=0)[-1]["detail"]


def test_the_guide_has_the_same_table_of_diagnoses():
    rows = dict(re.findall(r"^\| `([a-z0-9_]+)` \| (.*) \|$", GUIDE.read_text(), re.MULTILINE))
    means = {code: f"{diagnosis.means} | {diagnosis.do}" for code, diagnosis in DIAGNOSES.items()}
    assert {code: row for code, row in rows.items() if code in DIAGNOSES} == means
