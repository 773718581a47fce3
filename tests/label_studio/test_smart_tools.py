"""What the editor sends when somebody draws with a smart tool, and what comes of it there.

The requests are those in tests/contract/recorded/smart; `--write-requests` writes them anew.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page

from tests.label_studio.browser import (
    auto_annotate,
    choose_label,
    choose_smart_tool,
    choose_tool,
    click_picture,
    drag_on_picture,
    open_task,
    save_screenshot,
)
from tests.label_studio.labels import labels
from tests.label_studio.recorder import recorder
from tests.label_studio.scenes import drawn, iou, scenes
from tests.label_studio.test_requests import fields
from tests.label_studio.user import eventually
from tests.support.recorded import FOLDER, SMART_REQUESTS, STAMP, recorded

pytestmark = pytest.mark.timeout(900)

DOCS = Path(__file__).parents[2] / "docs" / "images"
IMAGE = '<Image name="image" value="$image"/>'
LABELS = '<Label value="cat"/><Label value="dog"/>'
ALIASED = '<Label value="cat" alias="0_cat"/><Label value="dog" alias="1_dog" hint="brush"/>'
DOG = "2"
"""The key of the second label."""
PERCENT = 1.0
"""By how much places may differ: the editor shows the picture at the size that is left."""
SENT_WITHIN = 20
MAKE_SMART = """() => window.Htx.annotationStore.selected.regions.forEach(region => {
    region.makeDynamic()
    region.notifyDrawingFinished()
})"""


@dataclass(frozen=True)
class Tool:
    """How somebody draws with a tool around what lies at the right of the picture."""

    tag: str
    draw: Callable[[Page], None]
    choose: Callable[[Page], None] = choose_smart_tool
    is_sent: bool = True
    """Label Studio 1.23.2 has no smart ellipse and no smart polygon, and sends nothing of its smart brush. What they
    draw is made smart by a script, to see what a release that sends it would send.
    """


def _click_twice(page: Page) -> None:
    click_picture(page, (75, 45))
    click_picture(page, (85, 45), alt=True)  # not this one


def _drag_twice(page: Page) -> None:
    drag_on_picture(page, (60, 20), (70, 30), (75, 40))
    drag_on_picture(page, (60, 50), (70, 60), (75, 70))


_THREE_POINTS = ((30, 40), (60, 20), (75, 60))
_CORNERS = ((30, 20), (80, 20), (80, 70), (30, 70), (30, 20))
TOOLS = {
    "keypoint": Tool("KeyPoint", lambda page: click_picture(page, (75, 45))),
    "keypoint_twice": Tool("KeyPoint", _click_twice),
    "rectangle": Tool("Rectangle", lambda page: drag_on_picture(page, (30, 20), (50, 40), (80, 70))),
    "rectangle_twice": Tool("Rectangle", _drag_twice),
    "rectangle_three_points": Tool(
        "Rectangle", lambda page: click_picture(page, *_THREE_POINTS), partial(choose_smart_tool, place=1)
    ),
    "brush": Tool("Brush", lambda page: drag_on_picture(page, (60, 45), (70, 45), (80, 45)), is_sent=False),
    "ellipse": Tool(
        "Ellipse",
        lambda page: drag_on_picture(page, (40, 45), (60, 60), (80, 70)),
        partial(choose_tool, name="ellipse-tool"),
        is_sent=False,
    ),
    "polygon": Tool(
        "Polygon",
        lambda page: click_picture(page, *_CORNERS),
        partial(choose_tool, name="polygon-tool"),
        is_sent=False,
    ),
}


def config(name: str) -> str:
    """The tool with labels of its own, or beside a `Labels` control; and a brush for masks, where it is none itself."""
    tag, kind = TOOLS[name.rpartition("_")[0]].tag, name.rpartition("_")[2]
    if kind == "own":
        brush = f'<BrushLabels name="brush" toName="image" smart="false">{LABELS}</BrushLabels>'
        tool = f'<{tag}Labels name="tool" toName="image" smart="true">{LABELS}</{tag}Labels>'
    else:
        brush = '<Brush name="brush" toName="image" smart="false"/>'
        tool = f'<{tag} name="tool" toName="image" smart="true"/>'
        tool += f'<Labels name="labels" toName="image">{ALIASED if kind == "alias" else LABELS}</Labels>'
    return f"<View>{IMAGE}{tool}{'' if tag == 'Brush' else brush}</View>"


@pytest.fixture(scope="module")
def notes():
    with recorder() as opened:
        yield opened


@pytest.mark.parametrize("name", SMART_REQUESTS)
def test_a_recorded_smart_request_is_one_that_the_editor_sends(page, server, user, notes, name, request):
    tool = TOOLS[name.rpartition("_")[0]]
    project = user.project(config(name), title=name)
    backend = {"project": project, "url": notes.url, "title": "recorder", "is_interactive": True}
    user.ask("POST", "/api/ml/", json=backend)
    (task,) = user.upload(project, [(one.name, one.content) for one in scenes(1)])
    open_task(page, server, project, task)
    auto_annotate(page)
    tool.choose(page)
    choose_label(page, DOG)
    tool.draw(page)
    if not tool.is_sent:
        page.evaluate(MAKE_SMART)
    ids = json.loads(page.evaluate("JSON.stringify(window.Htx.annotationStore.selected.regions.map(r => r.cleanId))"))

    def sent():
        """The request that has all that was drawn."""
        asked = [one for one in notes.bodies("predict") if one["project"].startswith(f"{project}.")]
        contexts = [one for one in asked if one["params"]["context"]]
        return [one for one in contexts if {r["id"] for r in one["params"]["context"]["result"]} == set(ids)]

    real = anonymous(eventually(sent, bool, SENT_WITHIN)[-1])
    if request.config.getoption("--write-requests", default=False):
        (FOLDER / "smart" / f"{name}.json").write_text(as_text(real))
    told = recorded(f"smart/{name}")
    assert fields(told) == fields(real)
    assert told["label_config"] == real["label_config"]
    assert alike(told["params"], real["params"])


def anonymous(body):
    """The request with numbers, names and times that every recorded one has; the drawing is untouched."""
    task = body["tasks"][0] | {"id": 151, "project": 2, "data": {"image": "s3://bucket/k/a b.jpg"}}
    task = task | dict.fromkeys(("created_at", "updated_at"), "2026-12-01T00:00:00.000000Z")
    task["file_upload"] = None
    text = json.dumps(body | {"tasks": [task], "project": STAMP})
    ids = dict.fromkeys(region["id"] for region in body["params"]["context"]["result"])
    for number, one in enumerate(ids):
        text = text.replace(json.dumps(one), f'"drawn-{number}"')
    return json.loads(text)


def as_text(body):
    """JSON with lists of numbers on one line."""
    text = json.dumps(body, indent=1)
    return re.sub(r"\[[\s\d.,-]+\]", lambda found: " ".join(found.group().split()), text) + "\n"


def alike(one, other):
    """Whether two values are the same but for places that are as good as equal."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(name == "rle" or alike(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if type(one) is bool or not isinstance(one, int | float):
        return bool(one == other)
    return isinstance(other, int | float) and math.isclose(one, other, abs_tol=PERCENT)


def test_a_smart_box_drawn_with_a_labels_control_shows_its_mask(page, server, user, labeler, request):
    (picture,) = scenes(1)
    word = picture.scene.words[0]
    tools = '<Rectangle name="box" toName="image" smart="true"/><Brush name="brush" toName="image" smart="false"/>'
    project = user.project(f'<View>{IMAGE}{tools}<Labels name="labels" toName="image">{labels()}</Labels></View>')
    labeler.connect(project)
    (task,) = user.upload(project, [(picture.name, picture.content)])
    eventually(lambda: user.predictions(project), bool, 300)  # the mask is known: what follows waits for nobody
    truth = picture.truth(word)
    open_task(page, server, project, task)
    page.get_by_label("Create an annotation").click()  # an empty one: the first has our prediction
    page.wait_for_function("window.Htx.annotationStore.selected.regions.length === 0")
    auto_annotate(page)
    choose_smart_tool(page)
    page.locator(".lsf-label").filter(has_text=word).click()
    corners = around(truth)
    drag_on_picture(page, corners[0], (50, 50), corners[1])
    page.wait_for_function("window.Htx.annotationStore.selected.suggestions.size > 0")
    if request.config.getoption("--write-images", default=False):
        page.wait_for_timeout(1000)
        save_screenshot(page, DOCS / "label-studio-smart.png")
    page.evaluate("window.Htx.annotationStore.selected.acceptAllSuggestions()")
    result = json.loads(page.evaluate("JSON.stringify(window.Htx.annotationStore.selected.serializeAnnotation())"))
    shape, named = [one for one in result if "rle" in one["value"]]
    assert (shape["type"], shape["from_name"], shape["id"]) == ("brush", "brush", named["id"])
    assert (named["type"], named["from_name"], named["value"]["labels"]) == ("labels", "labels", [word])
    as_one = shape | {"type": "brushlabels", "value": shape["value"] | {"brushlabels": [word]}}
    assert iou(drawn([as_one])[word], truth) > 0.6


def around(mask, margin=3):
    """Two corners of a box around a mask, in percent."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    return (
        (columns[0] * 100 / width - margin, rows[0] * 100 / height - margin),
        (columns[-1] * 100 / width + margin, rows[-1] * 100 / height + margin),
    )
