"""What annotators do: they submit, they ask, and they come with tokens of either kind."""

import json

import pytest

from tests.label_studio.labels import config, labels
from tests.label_studio.scenes import drawn, iou, scenes
from tests.label_studio.service import service
from tests.label_studio.user import eventually

pytestmark = pytest.mark.timeout(900)

SCENES = scenes(4)
SECONDS = 300
TOOLS = (
    f'<KeyPointLabels name="point" toName="image" smart="true">{labels()}</KeyPointLabels>'
    '<TextArea name="ask" toName="image" smart="true"/>'
)


def test_submitted_annotations_tell_how_well_each_word_is_found(user, labeler):
    project = user.project(config("Brush"), title="feedback")
    labeler.connect(project)
    tasks = user.upload(project, [(one.name, one.content) for one in SCENES])
    found = eventually(lambda: user.predictions(project), lambda found: len(found) >= len(tasks), SECONDS)
    words = set()
    for prediction in found:
        user.annotate(prediction["task"], prediction["result"])
        words |= set(drawn(prediction["result"]))

    def told():
        said = labeler.car("label-studio", "feedback", "--project", str(project), "--json")
        return {one["label"]: one for line in said.splitlines() if (one := json.loads(line))}

    assert set(eventually(told, lambda seen: set(seen) >= words, SECONDS)) >= words


@pytest.fixture(scope="module")
def asked(user, labeler):
    """A project with tools, its backend's number, and a task with what is in its picture."""
    project = user.project(config("Brush", more=TOOLS), title="interactive")
    labeler.connect(project)
    (task,) = user.upload(project, [(SCENES[0].name, SCENES[0].content)])
    (backend,) = user.backends(project)
    eventually(lambda: user.predictions(project), len, SECONDS)  # the models are there
    return backend["id"], task


def ask(user, asked, *regions):
    """What the editor is answered, once it is more than `[]`."""
    backend, task = asked
    body = {"task": task, "context": {"result": list(regions)}}
    path = f"/api/ml/{backend}/interactive-annotating"
    said = eventually(lambda: user.ask("POST", path, json=body), lambda said: said.get("data"), SECONDS)
    return said["data"]["result"]


def test_a_prompt_is_answered_with_the_mask_of_its_words(user, asked):
    word = SCENES[0].scene.words[0]
    region = {"id": "t", "type": "textarea", "from_name": "ask", "to_name": "image", "value": {"text": [word]}}
    masks = drawn(ask(user, asked, region))
    assert set(masks) == {word}
    assert iou(masks[word], SCENES[0].truth(word)) > 0.5


def test_a_click_is_answered_with_the_mask_under_it(user, asked):
    word = SCENES[0].scene.words[0]
    truth = SCENES[0].truth(word)
    rows, columns = truth.nonzero()
    middle = len(rows) // 2
    height, width = truth.shape
    value = {"x": 100 * columns[middle] / width, "y": 100 * rows[middle] / height, "width": 0.3}
    region = {
        "id": "k",
        "type": "keypointlabels",
        "from_name": "point",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "is_positive": True,
        "value": value | {"keypointlabels": [word]},
    }
    masks = drawn(ask(user, asked, region))
    assert set(masks) == {word}
    assert iou(masks[word], truth) > 0.5


def test_a_legacy_token_does_what_a_personal_one_does(user, server, tmp_path):
    with service(tmp_path / "car", LABEL_STUDIO_URL=server.url, LABEL_STUDIO_API_KEY=server.token) as other:
        project = user.project(config("Brush"), title="legacy token")
        assert "legacy token" in other.connect(project)
        tasks = user.upload(project, [(one.name, one.content) for one in SCENES[:2]])
        found = eventually(lambda: user.predictions(project), lambda found: len(found) >= len(tasks), SECONDS)
        assert sorted(one["task"] for one in found) == sorted(tasks)


def test_the_doctor_finds_nothing_wrong_with_a_connected_project(user, labeler):
    project = user.project(config("Brush"), title="healthy")
    labeler.connect(project)
    tasks = user.upload(project, [(SCENES[0].name, SCENES[0].content)])
    eventually(lambda: user.predictions(project), lambda found: len(found) == len(tasks), SECONDS)
    labeler.car("doctor", "--project", str(project))
