"""`car segment` with real models (tiny, random), real files, exit codes, messages, results."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from car.rle import decode_coco
from cli.main import app

LABELS = "cat,dog,red car,bus,grass"
QUERY = {"label": str, "text": str, "score": float, "kept": bool, "area": int}
MASK = {"label": str, "score": float, "area": int, "bbox": list, "source": str, "rle": dict}


@pytest.fixture
def car(tiny_clips):
    def run(*arguments):
        common = ["--models", str(tiny_clips), "--preset", "coco", "--set", "theta=0.195"]
        return CliRunner().invoke(app, ["segment", *map(str, arguments), *common])

    return run


@pytest.fixture(scope="module")
def full_run(tiny_clips, pictures, tmp_path_factory):
    """The output folder and CLI result of a run with every kind of output."""
    out = tmp_path_factory.mktemp("full_run")
    options = ["--json", out / "new" / "a.json", "--masks", out / "masks"]
    options += ["--overlay", out / "overlay.png", "--history", out / "history.png"]
    arguments = ["segment", pictures / "alpha.png", "--labels", LABELS, "--models", tiny_clips, *options]
    arguments += ["--preset", "coco", "--set", "theta=0.195", "--device", "cpu"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return out, result


def fields_of(doc, shape):
    return {name: isinstance(doc.get(name), kind) for name, kind in shape.items()}


def all_there(shape):
    return dict.fromkeys(shape, True)


def test_the_json_document_has_the_fields_that_outside_programs_read(full_run, pictures):
    doc = json.loads((full_run[0] / "new" / "a.json").read_text())
    shape = {"path": str, "width": int, "height": int, "sha256": str}
    assert fields_of(doc["image"], shape) == all_there(shape)
    assert (doc["image"]["path"], doc["image"]["width"]) == (str(pictures / "alpha.png"), 64)
    shape = {"model_version": str, "recipe": dict, "stop_reason": str, "steps": list, "masks": list, "timings": dict}
    assert fields_of(doc, shape) == all_there(shape)
    assert doc["recipe"]["theta"] == 0.195
    assert [step["step"] for step in doc["steps"]] == list(range(1, len(doc["steps"]) + 1))
    assert [query["label"] for query in doc["steps"][0]["queries"]] == LABELS.split(",")
    for query in (query for step in doc["steps"] for query in step["queries"]):
        assert fields_of(query, QUERY) == all_there(QUERY)
    for mask in doc["masks"]:
        assert fields_of(mask, MASK) == all_there(MASK)
        assert mask["rle"]["size"] == [48, 64]


def test_the_queries_of_a_step_are_those_the_step_before_kept(full_run):
    steps = json.loads((full_run[0] / "new" / "a.json").read_text())["steps"]
    for before, after in pairwise(steps):
        survivors = [query["label"] for query in before["queries"] if query["kept"]]
        assert [query["label"] for query in after["queries"]] == survivors


def test_mask_files_hold_the_pixels_of_the_run_lengths(full_run):
    out, _ = full_run
    doc = json.loads((out / "new" / "a.json").read_text())
    index = json.loads((out / "masks" / "index.json").read_text())
    assert doc["masks"], "this recipe finds something"
    assert [entry["label"] for entry in index["masks"]] == [mask["label"] for mask in doc["masks"]]
    for entry, mask in zip(index["masks"], doc["masks"], strict=True):
        pixels = np.asarray(Image.open(out / "masks" / entry["file"]))
        assert set(np.unique(pixels)) <= {0, 255}
        np.testing.assert_array_equal(pixels == 255, decode_coco(mask["rle"]))


def test_overlay_and_history_images_are_larger_than_the_input(full_run):
    out, _ = full_run
    for name in ("overlay.png", "history.png"):
        with Image.open(out / name) as image:
            assert image.format == "PNG"
            assert image.width > 64
            assert image.height > 48


def test_the_table_names_every_label_its_scores_and_why_it_ended(full_run):
    out, result = full_run
    doc = json.loads((out / "new" / "a.json").read_text())
    for query in doc["steps"][0]["queries"]:
        assert f"{query['label']} " in result.stdout
        assert f"{query['score']:.2f} {'✓' if query['kept'] else '✗'}" in result.stdout
    assert "step 1" in result.stdout
    assert "kept after" in result.stdout


def test_a_damaged_file_is_named_and_its_neighbours_are_done(car, pictures, tmp_path):
    lines, masks, overlays = tmp_path / "all.jsonl", tmp_path / "m", tmp_path / "o"
    result = car(pictures, "--labels", LABELS, "--json", lines, "--masks", masks, "--overlay", overlays)
    assert result.exit_code == 1
    assert "broken.png" in result.stderr
    assert "Traceback" not in result.output
    docs = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [Path(doc["image"]["path"]).name for doc in docs] == ["alpha.png", "beta.png", "gamma.png"]
    assert {folder.name for folder in masks.iterdir()} == {"alpha", "beta", "gamma"}
    assert {file.name for file in overlays.iterdir()} == {"alpha.png", "beta.png", "gamma.png"}
    assert "3 of 4 files done" in result.stdout


def test_a_missing_file_among_good_ones_is_one_failure(car, pictures, tmp_path):
    result = car(pictures / "alpha.png", tmp_path / "nowhere.png", "--labels", "cat,dog")
    assert result.exit_code == 1
    assert "nowhere.png" in result.stderr


def test_stdout_is_json_alone_where_it_is_asked_for(car, pictures):
    result = car(pictures / "alpha.png", pictures / "broken.png", "--labels", "cat,dog", "--json", "-")
    assert result.exit_code == 1
    (line,) = result.stdout.splitlines()
    assert json.loads(line)["image"]["width"] == 64
    assert "step 1" in result.stderr


def test_images_of_equal_name_get_files_of_their_own(car, pictures, tmp_path):
    other = tmp_path / "other" / "ALPHA.png"
    other.parent.mkdir()
    other.write_bytes((pictures / "alpha.png").read_bytes())
    result = car(pictures / "alpha.png", other, "--labels", "cat,dog", "--json", f"{tmp_path}/docs/", "--quiet")
    assert result.exit_code == 0
    assert result.output == ""
    docs = {file.name: json.loads(file.read_text()) for file in (tmp_path / "docs").iterdir()}
    assert {name: doc["image"]["path"] for name, doc in docs.items()} == {
        "alpha.json": str(pictures / "alpha.png"),
        "ALPHA-2.json": str(other),
    }


def test_labels_that_no_file_name_can_hold_get_safe_ones(car, pictures, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text('../../etc\n{"name": "a/b", "prompts": ["thing"]}\na b\n強い犬\n', encoding="utf-8")
    result = car(pictures / "alpha.png", "--labels-file", labels, "--set", "theta=0", "--masks", tmp_path / "m")
    assert result.exit_code == 0, result.output
    index = json.loads((tmp_path / "m" / "index.json").read_text())
    files = {entry["file"] for entry in index["masks"]}
    assert files == {file.name for file in (tmp_path / "m").iterdir()} - {"index.json"}


def test_verbose_adds_areas_and_stages(car, pictures):
    result = car(pictures / "beta.png", "--labels", LABELS, "--verbose")
    assert result.exit_code == 0
    assert " px " in result.stdout
    assert "milliseconds: encode" in result.stdout


WRONG = {
    "a preset": (["--labels", "cat", "--preset", "nonsense"], "nonsense"),
    "a key": (["--labels", "cat", "--set", "thetta=1"], "thetta"),
    "a value": (["--labels", "cat", "--set", "theta=high"], "high"),
    "a setting without =": (["--labels", "cat", "--set", "theta"], "KEY=VALUE"),
    "an empty label": (["--labels", "cat,,dog"], "empty"),
    "a label given twice": (["--labels", "zebra,Zebra"], "zebra"),
    "a label longer than CLIP reads": (["--labels", "x" * 120], "tokens"),
    "no labels": ([], "--labels"),
    "labels twice": (["--labels", "cat", "--labels-file", "f"], "not both"),
    "a labels file that is not there": (["--labels-file", "nowhere.txt"], "nowhere.txt"),
    "a background": (["--labels", "cat", "--background", "lunar"], "lunar"),
    "a SAM that is not there": (["--labels", "cat", "--sam", "nowhere/sam"], "nowhere/sam"),
    "a SAM that was never pulled": (["--labels", "cat", "--sam", "sam-vit-h"], "car models pull sam-vit-h"),
    "a SAM where the models have none": (["--labels", "cat", "--set", "sam=on"], "sam/"),
    "no SAM and one": (["--labels", "cat", "--set", "sam=on", "--sam", "none"], "contradict"),
    "a device": (["--labels", "cat", "--device", "abacus"], "abacus"),
    "a JPEG overlay": (["--labels", "cat", "--overlay", "o.jpg"], "PNG"),
    "a place that cannot be": (["--labels", "cat", "--json", "/dev/null/a.json"], "/dev/null/a.json"),
    "a folder that cannot be": (["--labels", "cat", "--masks", "/dev/null/m"], "/dev/null/m"),
    "an option": (["--labels", "cat", "--lables", "dog"], "--lables"),
}


@pytest.mark.parametrize(("arguments", "named"), WRONG.values(), ids=WRONG.keys())
def test_wrong_usage_is_named(tiny_clips, pictures, arguments, named):
    models = ["--models", str(tiny_clips)]
    result = CliRunner().invoke(app, ["segment", str(pictures / "alpha.png"), *arguments, *models])
    assert result.exit_code == 2
    assert named in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("models", "named"),
    [
        (["--models", "no/such/folder"], "no/such/folder"),
        (["--models", "."], "proposal"),
        (["--proposal-model", "./nowhere"], "./nowhere"),
    ],
)
def test_models_that_are_not_there_are_named(tiny_clips, pictures, models, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--labels", "cat", "--classifier-model", str(tiny_clips / "classifier"), *models]
    result = CliRunner().invoke(app, ["segment", str(pictures / "alpha.png"), *options])
    assert result.exit_code == 2
    assert named in result.stderr


def test_no_images_at_all_is_wrong_usage(car, tmp_path):
    result = car(tmp_path, tmp_path / "nowhere.png", "--labels", "cat")
    assert result.exit_code == 2
    assert "no images" in result.stderr
    assert "nowhere.png" in result.stderr


@pytest.mark.parametrize("option", ["--overlay", "--history", "--json"])
def test_an_image_is_never_overwritten_by_its_own_results(car, pictures, option):
    before = (pictures / "alpha.png").read_bytes()
    result = car(pictures / "alpha.png", "--labels", "cat", option, pictures / "alpha.png")
    assert result.exit_code == 2
    assert "overwritten" in result.stderr
    assert (pictures / "alpha.png").read_bytes() == before


def test_images_in_the_folder_of_their_overlays_are_safe(car, pictures):
    result = car(pictures / "alpha.png", pictures / "beta.png", "--labels", "cat", "--overlay", pictures)
    assert result.exit_code == 2
    assert "alpha.png" in result.stderr


def test_results_of_an_earlier_run_survive_wrong_usage(car, pictures, tmp_path):
    (tmp_path / "a.json").write_text("precious")
    result = car(pictures / "alpha.png", "--labels", "x" * 120, "--json", tmp_path / "a.json")
    assert result.exit_code == 2
    assert (tmp_path / "a.json").read_text() == "precious"


def test_names_that_a_terminal_cannot_show_stop_nothing(tiny_clips, pictures, tmp_path):
    odd = tmp_path / os.fsdecode(b"caf\xe9.png")
    odd.write_bytes((pictures / "alpha.png").read_bytes())
    command = [sys.executable, "-c", "from cli.main import app; app()", "segment", odd, "--models", tiny_clips]
    command += ["--labels", "強い犬,cat", "--json", f"{tmp_path}/docs/", "--overlay", tmp_path / "o.png"]
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ascii_only)
    assert done.returncode == 0, done.stderr
    assert "+" in done.stdout
    assert len(list((tmp_path / "docs").iterdir())) == 1


def test_help_is_quick_because_nothing_heavy_is_imported():
    code = (
        "import sys; from cli.main import app; from typer.testing import CliRunner;"
        "r = CliRunner().invoke(app, ['segment', '--help']);"
        "print(r.exit_code, {'torch', 'transformers'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0 set()"


def test_a_closed_pipe_is_no_bug(tiny_clips, pictures):
    command = (
        f"{sys.executable} -c 'from cli.main import app; app()' segment {pictures / 'alpha.png'} --models {tiny_clips}"
    )
    command += " --labels cat,dog --json - --quiet | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)  # noqa: S602
    assert done.stderr == "", "neither a traceback nor a warning of a library"
