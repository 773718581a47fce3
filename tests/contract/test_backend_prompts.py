"""/predict with a context: an annotator's click or text is waited for, briefly and only where somebody works."""

import hashlib
import json
import threading
import time

import numpy as np
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from structlog.testing import capture_logs

from api.app import create_app
from car.model_version import CODE_VERSION, model_version
from car.rle import decode_brush
from db import vocabularies
from db.label_studio.outbox import complete_items
from db.objects import S3ObjectStore
from db.queue import items
from db.queue import workers as presences
from db.queue.items import CompletedItem, FailedItem
from db.results import store as result_store
from db.results.store import NewResult
from tests.support.api_client import segmentation
from tests.support.label_studio_rows import WEIGHTS
from tests.support.recorded import BASIC, SMART_REQUESTS, recorded
from tests.support.rows import LEASE
from worker.images import DecodedImage
from worker.pipeline.result_objects import store_objects
from worker.pipeline.types import FetchedItem, RunSpec

CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image"><Label value="cat"/>'
    '<Label value="dog"/></BrushLabels><KeyPointLabels name="kp" toName="image" smart="true"><Label value="cat"/>'
    '<Label value="dog"/></KeyPointLabels><TextArea name="ask" toName="image" smart="true"/></View>'
)
SIZE = (64, 48)


class GpuWorker:
    """A worker whose masks are stripes, the first label's on the left."""

    def __init__(self, workers, settings):
        self.rows = workers
        self.objects = S3ObjectStore.from_settings(settings)
        presence = presences.WorkerInfo("host:1:gpu", "gpu", "cpu", WEIGHTS, CODE_VERSION)
        workers.do(presences.heartbeat, presence)

    def work(self):
        """Everything that is queued; the vocabularies that it was asked with."""
        claimed = self.rows.do(items.claim, "host:1:gpu", limit=100, lease=LEASE)
        return [self._end(one) for one in claimed]

    def work_soon(self, seconds=0.3):
        def later():
            until = time.monotonic() + 10
            while not self.work() and time.monotonic() < until:
                time.sleep(0.05)

        thread = threading.Timer(seconds, later)
        thread.start()
        return thread

    def _end(self, item):
        words = self.rows.do(vocabularies.get, item.vocabulary_id).vocabulary
        recipe = self.rows.do(vocabularies.recipe, item.recipe_id).recipe
        version = model_version(WEIGHTS, recipe, words)
        run_key = hashlib.sha256(f"{item.uri} {version}".encode()).hexdigest()
        picture = DecodedImage(
            np.full((SIZE[1], SIZE[0], 3), 200, np.uint8),
            *SIZE,
            hashlib.sha256(item.uri.encode()).hexdigest(),
            "PNG",
            (),
        )
        found = segmentation([(label.name, 0.9) for label in words.labels], (), SIZE)
        wish = RunSpec(item.vocabulary_id, item.recipe_id, words, recipe, WEIGHTS, version)
        keys = store_objects(self.objects, FetchedItem(None, wish, picture, run_key), found)
        new = NewResult(
            run_key=run_key,
            sha256=picture.sha256,
            format="PNG",
            notes=(),
            segmentation=found,
            vocabulary_id=item.vocabulary_id,
            recipe_id=item.recipe_id,
            model_version=version,
            weights=WEIGHTS,
            code_version=CODE_VERSION,
            device="cpu",
            masks_key=keys[0],
            labelmap_key=keys[1],
            preview_key=keys[2],
        )
        result = self.rows.do(result_store.store, "host:1:gpu", [new])[run_key]
        self.rows.do(complete_items, "host:1:gpu", [CompletedItem(item, result, reused=False)])
        return [label.name for label in words.labels]


@pytest.fixture
def gpu(workers, face_settings):
    return GpuWorker(workers, face_settings)


@pytest.fixture
def editor(face, workers):
    """A backend whose project has smart tools."""
    assert workers
    assert face.post("/setup", json=recorded("setup", schema=CONFIG)).status_code == 200
    return face


def point(label="cat", x=10, y=50):
    region = recorded("predict_smart_tool")["params"]["context"]["result"][0]
    return region | {"value": {"x": x, "y": y, "width": 0.3, "keypointlabels": [label]}}


def text(*lines):
    return {
        "id": "t",
        "type": "textarea",
        "from_name": "ask",
        "to_name": "image",
        "value": {"text": ["\n".join(lines)]},
    }


def ask(client, *regions, **changes):
    """The only slot, and how long it took."""
    params = {"login": None, "password": None, "context": {"result": list(regions)}}
    body = recorded("predict_smart_tool", label_config=CONFIG, params=params) | changes
    begun = time.monotonic()
    answer = client.post("/predict", content=json.dumps(body).encode())
    assert answer.status_code == 200
    [slot] = answer.json()["results"]
    return slot, time.monotonic() - begun


def labels(slot):
    return [region["value"]["brushlabels"] for region in slot["result"]]


def test_a_click_gets_its_label_as_soon_as_a_worker_has_it(editor, gpu):
    thread = gpu.work_soon()
    slot, _ = ask(editor, point("cat", x=10))
    thread.join()
    assert labels(slot) == [["cat"]]
    assert slot["model_version"] == editor.post("/setup", json=recorded("setup", schema=CONFIG)).json()["model_version"]
    slot, seconds = ask(editor, point("dog", x=90))  # the picture is known by now
    assert labels(slot) == [["dog"]]
    assert seconds < 2


WHERE_DRAWN = {
    "keypoint": [(0, 0, 100, 100)],
    "keypoint_twice": [],  # the second click says "not this one"
    "rectangle": [(30, 20, 80, 70)],
    "rectangle_twice": [(60, 20, 75, 40), (60, 50, 75, 70)],
    "rectangle_three_points": [(30, 20, 83, 75)],
    "brush": [(0, 0, 100, 100)],
    "ellipse": [(0, 20, 80, 70)],
    "polygon": [(30, 20, 80, 70)],
}
"""By tool the boxes, in percent, to which the mask of the dog is cut, which fills the right half of the picture."""


@pytest.fixture
def hasty(face_settings, workers):
    """A backend that waits for nobody."""
    assert workers
    with TestClient(create_app(face_settings.model_copy(update={"predict_wait_seconds": 0.0}))) as client:
        client.auth = BASIC
        yield client


@pytest.mark.parametrize("name", SMART_REQUESTS)
def test_what_the_editor_sends_of_a_smart_tool_gets_the_mask_that_was_drawn_around(hasty, gpu, name):
    body = recorded(f"smart/{name}")
    tool, _, kind = name.rpartition("_")
    hasty.post("/setup", json=recorded("setup", schema=body["label_config"]))
    hasty.post("/predict", json=body)
    asked = gpu.work()
    [slot] = hasty.post("/predict", json=body).json()["results"]
    expected = np.zeros((SIZE[1], SIZE[0]), bool)
    for left, top, right, bottom in WHERE_DRAWN[tool]:
        expected[
            top * SIZE[1] // 100 : -(-bottom * SIZE[1] // 100), left * SIZE[0] // 100 : -(-right * SIZE[0] // 100)
        ] = 1
    expected[:, : SIZE[0] // 2] = expected[:, -1:] = False
    regions = [one for one in slot["result"] if one["type"].startswith("brush")]
    masks = [decode_brush(one["value"]["rle"], SIZE[1], SIZE[0]) for one in regions]
    shown = np.logical_or.reduce(masks) if masks else np.zeros_like(expected)
    assert (shown ^ expected).mean() < 0.02  # the hand is no more exact
    assert shown.any() == expected.any()
    labels = [one["value"][one["type"]] for one in slot["result"] if one["type"].endswith("labels")]
    assert labels == [["1_dog" if kind == "alias" else "dog"]] * len(regions)
    assert asked == [["0_cat", "1_dog"] if kind == "alias" else ["cat", "dog"]]


def test_a_click_beside_its_label_finds_nothing(editor, gpu):
    ask(editor, point("cat"))
    gpu.work()
    slot, _ = ask(editor, point("cat", x=90))
    assert slot["result"] == []


def test_a_text_asks_with_words_of_its_own(editor, gpu):
    thread = gpu.work_soon(0)
    slot, _ = ask(editor, text("cat: the striped one"))
    thread.join()
    assert labels(slot) == [["cat"]]


def test_a_prompt_goes_ahead_of_everything(editor, workers):
    project = recorded("webhook_tasks_created")["project"] | {"label_config": CONFIG}
    editor.post("/webhook", json=recorded("webhook_tasks_created", project=project))
    ask(editor, text("cat: the striped one"))
    [first] = workers.do(items.claim, "gpu", limit=1, lease=LEASE)
    [label] = workers.do(vocabularies.get, first.vocabulary_id).vocabulary.labels
    assert label.prompts == ("the striped one",)


def test_nothing_of_a_prompt_is_written_back(editor, gpu, workers):
    thread = gpu.work_soon()
    ask(editor, text("cat: the striped one"))
    thread.join()
    ask(editor, point("cat"))
    gpu.work()
    assert workers.predictions() == []
    assert workers.sql("SELECT count(*) FROM task") == [(0,)]


def test_without_a_living_worker_nobody_waits_and_the_question_is_queued(editor, workers):
    slot, seconds = ask(editor, point())
    assert slot == []
    assert seconds < 2
    assert workers.sql("SELECT state, priority FROM item") == [("queued", 0)]


def test_a_worker_that_is_too_slow_is_waited_for_as_long_as_is_set(face_settings, workers, gpu):
    with TestClient(create_app(face_settings.model_copy(update={"predict_wait_seconds": 1.0}))) as client:
        client.auth = BASIC
        client.post("/setup", json=recorded("setup", schema=CONFIG))
        slot, seconds = ask(client, point())
    assert slot == []
    assert 1 <= seconds < 4
    assert workers.sql("SELECT state FROM item") == [("queued",)]
    assert gpu.work()


def test_waiting_holds_no_connection(face_settings, workers, gpu):
    with TestClient(create_app(face_settings.model_copy(update={"predict_wait_seconds": 20.0}))) as client:
        client.auth = BASIC
        client.post("/setup", json=recorded("setup", schema=CONFIG))
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(ask(client, point()))) for _ in range(20)]
        for thread in threads:
            thread.start()
        time.sleep(3)
        held = workers.sql(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
        )
        assert gpu.work()
        for thread in threads:
            thread.join()
    assert held[0][0] < 5
    assert [labels(slot) for slot, _ in answers] == [[["cat"]]] * 20


def test_a_picture_that_failed_is_no_answer(editor, gpu, workers):
    ask(editor, point())  # the wait ends without a worker's work
    claimed = workers.do(items.claim, "gpu", limit=10, lease=LEASE)
    workers.do(
        items.fail, "gpu", [FailedItem(one, "image_missing", "no such object", retryable=False) for one in claimed]
    )
    with capture_logs() as logged:
        slot, seconds = ask(editor, point())
    assert slot == []
    assert seconds < 2
    assert [line["code"] for line in logged if line["event"] == "prompt failed"] == ["image_missing"]
    assert gpu


@pytest.mark.parametrize(
    ("regions", "code"),
    [
        ([], "prompt_invalid"),
        ([{"type": "textarea", "value": {"text": [""]}}], "prompt_invalid"),
        ([{"type": "keypointlabels", "value": {"x": 1, "y": 1, "keypointlabels": ["hen"]}}], "prompt_invalid"),
        (["odd", None, 7], "prompt_invalid"),
    ],
)
def test_a_prompt_that_asks_nothing_is_logged_with_its_reason(editor, regions, code):
    with capture_logs() as logged:
        slot, _ = ask(editor, *regions)
    assert slot == []
    [line] = [line for line in logged if line["event"] == "nothing predicted"]
    assert line["code"] == code
    assert line["reason"]


def test_a_task_without_a_picture_is_no_answer(editor):
    task = recorded("predict_smart_tool")["tasks"][0]
    for odd in ({"data": {}}, {"data": None}, {"data": {"image": "ftp://x/a.jpg"}}, {"id": None}):
        slot, _ = ask(editor, point(), tasks=[task | odd])
        assert slot == []


def test_while_redis_is_away_the_answer_comes_in_time(face_settings, gpu):
    away = face_settings.model_copy(update={"celery_broker_url": SecretStr("redis://127.0.0.1:1/0")})
    with TestClient(create_app(away)) as client:
        client.auth = BASIC
        client.post("/setup", json=recorded("setup", schema=CONFIG))
        thread = gpu.work_soon()
        slot, _ = ask(client, point())
        thread.join()
    assert labels(slot) == [["cat"]]


def test_masks_that_are_gone_from_the_bucket_are_no_answer(editor, gpu, bucket):
    thread = gpu.work_soon()
    ask(editor, point())
    thread.join()
    for key in bucket.keys(""):
        bucket.client.delete_object(Bucket=bucket.name, Key=key)
    slot, _ = ask(editor, point())
    assert slot == []
