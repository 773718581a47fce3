"""The requests in tests/contract/recorded are those of the real Label Studio: no field more, none less."""

import json
from pathlib import Path

import pytest

from tests.label_studio.recorder import recorder
from tests.label_studio.scenes import scenes
from tests.label_studio.user import eventually

RECORDED = Path(__file__).parents[1] / "contract" / "recorded"
CONFIG = (
    '<View><Image name="image" value="$image"/>'
    '<BrushLabels name="brush" toName="image"><Label value="cat"/></BrushLabels>'
    '<KeyPointLabels name="point" toName="image" smart="true"><Label value="cat"/></KeyPointLabels></View>'
)
CLICK = {
    "id": "k",
    "type": "keypointlabels",
    "from_name": "point",
    "to_name": "image",
    "original_width": 160,
    "original_height": 160,
    "is_positive": True,
    "value": {"x": 10, "y": 10, "width": 0.3, "keypointlabels": ["cat"]},
}
SOMEBODYS = {"data", "meta", "extra_params", "context", "result", "parsed_label_config", "control_weights", "headers"}
"""Fields whose content is somebody's own, and not Label Studio's form."""


def fields(value, path=""):
    """The names of all fields, as paths; of lists those of their first entry."""
    if isinstance(value, list):
        return fields(value[0], f"{path}[]") if value else set()
    if not isinstance(value, dict):
        return set()
    found = set()
    for name, inner in value.items():
        found.add(f"{path}.{name}")
        if name not in SOMEBODYS:
            found |= fields(inner, f"{path}.{name}")
    return found


@pytest.fixture(scope="module")
def sent(user):
    """What a backend is sent while somebody works, by the name of the recorded file."""
    with recorder() as notes:
        project = user.project(CONFIG, title="recorded")
        body = {"project": project, "url": notes.url, "title": "recorder", "is_interactive": True}
        backend = user.ask("POST", "/api/ml/", json=body)
        pictures = [(one.name, one.content) for one in scenes(3)]
        first, second, third = user.upload(project, pictures)
        user.retrieve(project)
        annotation = user.annotate(first, [CLICK])
        user.ask("POST", f"/api/ml/{backend['id']}/interactive-annotating", json=_click(first))
        user.ask("PATCH", f"/api/annotations/{annotation['id']}/", json={"result": []})
        user.ask("DELETE", f"/api/annotations/{annotation['id']}/")
        user.ask("DELETE", f"/api/tasks/{second}/")
        user.change(project, title="recorded again")
        user.ask("POST", f"/api/ml/{backend['id']}/train", json={"use_ground_truth": False})
        user.predict(third, [CLICK])
        chosen = {"all": False, "included": [third]}
        parameters = {"id": "predictions_to_annotations", "project": project}
        user.ask("POST", "/api/dm/actions", params=parameters, json={"selectedItems": chosen, "project": project})
        eventually(lambda: notes.bodies("ANNOTATIONS_CREATED"), len, 10)
        yield {name: notes.bodies(kind) for name, kind in KINDS.items()}


def _click(task):
    return {"task": task, "context": {"result": [CLICK]}}


KINDS = {
    "setup": "setup",
    "predict": "predict",
    "predict_smart_tool": "predict",
    "webhook_tasks_created": "TASKS_CREATED",
    "webhook_tasks_deleted": "TASKS_DELETED",
    "webhook_project_updated": "PROJECT_UPDATED",
    "webhook_start_training": "START_TRAINING",
    "webhook_annotation_created": "ANNOTATION_CREATED",
    "webhook_annotations_created": "ANNOTATIONS_CREATED",
    "webhook_annotation_updated": "ANNOTATION_UPDATED",
    "webhook_annotations_deleted": "ANNOTATIONS_DELETED",
}


@pytest.mark.parametrize("name", KINDS)
def test_a_recorded_request_is_one_that_label_studio_sends(sent, name):
    recorded = json.loads((RECORDED / f"{name}.json").read_text())
    real = sent[name][-1 if name == "predict_smart_tool" else 0]
    assert fields(recorded) == fields(real)
