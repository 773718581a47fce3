"""What an annotator sees: our masks lie on the objects in the editor, also where EXIF turns the picture."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.label_studio.browser import open_data_manager, open_task, picture_box, save_screenshot
from tests.label_studio.labels import config
from tests.label_studio.scenes import drawn, iou
from tests.label_studio.user import eventually, read_files

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "demo" / "images"
DOCS = ROOT / "docs" / "images"
PICTURES = ("several.png", "phone-upright.jpg", "overlap.jpg", "wide.webp", "odd-size.png", "tiny-and-large.png")
UPRIGHT = "phone-upright.jpg"
SECONDS = 300
TOLD_APART = 24
"""Of 255: what a mask that is drawn over a pixel changes it by, at least."""


@pytest.fixture(scope="module")
def shown(user, labeler):
    """A project whose tasks show our predictions: its number, and (task, prediction's regions) by picture."""
    project = user.project(config("Brush"), title="Shapes")
    labeler.connect(project)
    tasks = user.upload(project, read_files(IMAGES / name for name in PICTURES))
    eventually(lambda: user.predictions(project), lambda found: len(found) >= len(tasks), SECONDS)
    labeler.car("label-studio", "backfill", "--project", str(project), "--use")
    regions = {one["task"]: one["result"] for one in user.predictions(project)}
    return project, {name: (task, regions[task]) for name, task in zip(PICTURES, tasks, strict=True)}


def covered(page, name):
    """Which pixels of a picture the editor has painted over, at the size it shows it."""
    box = picture_box(page)
    seen = Image.open(BytesIO(page.screenshot(clip=box))).convert("RGB")
    plain = ImageOps.exif_transpose(Image.open(IMAGES / name)).convert("RGB")
    assert abs(seen.width / seen.height - plain.width / plain.height) < 0.02  # upright, both
    back = np.asarray(seen.resize(plain.size, Image.Resampling.BOX), np.int16)
    return np.abs(back - np.asarray(plain, np.int16)).max(axis=2) > TOLD_APART


@pytest.mark.parametrize("name", ["several.png", UPRIGHT])
def test_the_editor_shows_our_masks_where_the_objects_are(page, server, shown, name, request):
    project, by_name = shown
    task, regions = by_name[name]
    open_task(page, server, project, task)
    expected = np.logical_or.reduce(list(drawn(regions).values()))
    painted = covered(page, name)[:, : int(expected.shape[1] * 0.9)]  # the toolbar lies over the right edge
    assert iou(painted, expected[:, : painted.shape[1]]) > 0.85
    if request.config.getoption("--write-images", default=False):
        save_screenshot(page, DOCS / ("label-studio-exif.png" if name == UPRIGHT else "label-studio.png"))


def test_the_data_manager_counts_one_prediction_for_each_task(page, server, shown):
    project, by_name = shown
    open_data_manager(page, server, project)
    assert f"Predictions: {len(by_name)}" in page.inner_text("body")
