"""The embedded default as its user meets it: demo pictures through `car segment`, and quality on fresh scenes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from car.presets import preset
from car.rle import decode_coco
from cli.main import app
from cli.model_selection import demo_folder
from demo.sample_images import IMAGES, SAMPLE_IMAGES, truth_path
from demo.scenes import WORDS, held_out_scenes
from evaluation.metrics import ConfusionMatrix
from evaluation.shapes import evaluate
from worker.models.weights import load_pair
from worker.segmenter.segmenter import Segmenter

SCENES = 40


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `car segment demo/images` wrote, and its terminal output."""
    out = tmp_path_factory.mktemp("demo")
    arguments = ["segment", str(IMAGES), "--json", f"{out}/json/", "--overlay", f"{out}/overlays"]
    result = CliRunner().invoke(app, [*arguments, "--history", f"{out}/history"])
    assert result.exit_code == 0, result.output
    (out / "terminal.txt").write_text(result.output)
    return out


def test_every_demo_picture_is_segmented_drawn_and_told(run: Path):
    for folder, ending in (("json", ".json"), ("overlays", ".png"), ("history", ".png")):
        assert {path.name for path in (run / folder).iterdir()} == {
            f"{Path(p.name).stem}{ending}" for p in SAMPLE_IMAGES
        }
    terminal = (run / "terminal.txt").read_text()
    assert all(picture.name in terminal for picture in SAMPLE_IMAGES)
    assert "rotated by EXIF orientation 6" in " ".join(terminal.split())  # the terminal is narrow


def test_the_masks_lie_on_the_shapes_that_are_there(run: Path):
    confusion = ConfusionMatrix(len(WORDS) + 1)
    for picture in SAMPLE_IMAGES:
        truth = np.asarray(Image.open(truth_path(picture))).astype(int)
        document = json.loads((run / "json" / f"{Path(picture.name).stem}.json").read_text())
        painted = np.zeros_like(truth)
        for mask in document["masks"]:
            painted[decode_coco(mask["rle"])] = WORDS.index(mask["label"]) + 1
        confusion.add(truth, painted)
    assert confusion.miou() > 0.7
    assert confusion.pixel_accuracy > 0.93


def test_nothing_is_found_where_nothing_is(run: Path):
    document = json.loads((run / "json" / "nothing-but-grass.json").read_text())
    assert document["masks"] == []


def test_the_recurrence_earns_its_keep_on_scenes_that_no_training_saw():
    weights = demo_folder() / "weights"
    pair = load_pair(weights / "proposal", weights / "classifier", device=torch.device("cpu"))
    result = evaluate(Segmenter(pair.proposal, pair.classifier), held_out_scenes(SCENES, seed=1), preset("demo"))
    assert result.miou >= 0.8
    assert result.miou_one_step is not None
    assert result.miou - result.miou_one_step >= 0.2
