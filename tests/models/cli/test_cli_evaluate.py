"""`car evaluate shapes`: figures on screen and as JSON."""

import json
from pathlib import Path

from typer.testing import CliRunner

from cli.main import app


def test_shapes_are_measured_with_and_without_the_recurrence(tiny_clips: Path, tmp_path: Path):
    figures = tmp_path / "new" / "shapes.json"
    arguments = ["evaluate", "shapes", "--scenes", "2", "--models", str(tiny_clips), "--json", str(figures)]
    result = CliRunner().invoke(app, [*arguments, "--preset", "coco", "--set", "max_steps=3", "--seed", "7"])
    assert result.exit_code == 0, result.output
    document = json.loads(figures.read_text())
    assert document["scenes"] == 2
    assert 0 <= document["miou"] <= 1
    assert 0 <= document["miou_one_step"] <= 1
    assert document["seed"] == 7
    assert f"mIoU {document['miou']:.3f} with recurrence" in result.output
    assert "background" in result.output


def test_the_comparison_with_one_step_can_be_left_out(tiny_clips: Path, tmp_path: Path):
    figures = tmp_path / "shapes.json"
    arguments = ["evaluate", "shapes", "--scenes", "1", "--models", str(tiny_clips), "--no-one-step"]
    result = CliRunner().invoke(app, [*arguments, "--json", str(figures)])
    assert result.exit_code == 0, result.output
    assert json.loads(figures.read_text())["miou_one_step"] is None


def test_an_unknown_setting_is_wrong_use(tiny_clips: Path):
    result = CliRunner().invoke(app, ["evaluate", "shapes", "--models", str(tiny_clips), "--set", "tehta=0.5"])
    assert result.exit_code == 2
    assert "unknown recipe key 'tehta'" in result.output
