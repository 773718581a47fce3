"""`car bench crf`, `sam`, `memory`, `flow` and `all`: small ones of each are measured, shown, kept and compared."""

import json
import sys

import pytest
from PIL import Image
from typer.testing import CliRunner

from cli.bench.every import runs
from cli.bench.options import Scale, Where
from cli.main import app


@pytest.fixture
def bench(tmp_path):
    def run(name, *arguments):
        file = tmp_path / f"{name}.json"
        command = ["bench", name, *arguments, "--json", str(file)]
        done = CliRunner().invoke(app, command, env={"COLUMNS": "150"})
        assert done.exit_code == 0, done.output
        return json.loads(file.read_text())["cases"], done.output

    return run


def test_the_crf_beside_pydensecrf(bench, tmp_path):
    pytest.importorskip("pydensecrf")
    small = ("--size", "64x48", "--labels", "2", "--labels", "4", "--turns", "1")
    cases, said = bench("crf", *small, "--plot", str(tmp_path / "crf.png"))
    assert list(cases) == ["64x48, 2 labels", "64x48, 4 labels"]
    for case in cases.values():
        assert case["agreement"] >= 0.999
        assert case["seconds"].keys() >= {"pydensecrf", "lattice"}
        assert case["floor_seconds"] > 0
    assert "x floor" in said
    with Image.open(tmp_path / "crf.png") as sheet:
        assert sheet.size[0] == 900
    again = CliRunner().invoke(app, ["bench", "crf", *small, "--compare", str(tmp_path / "crf.json")])
    assert again.exit_code == 0, again.output
    assert "figures got worse" in again.output


def test_sam_beside_the_official_generator(bench, tmp_path):
    plot = tmp_path / "sam.png"
    cases, said = bench("sam", "--sam", "tiny", "--size", "64x48", "--points", "4", "--plot", str(plot))
    (case,) = cases.values()
    assert case["matched_share"] >= 0.98
    assert case["ours_s"].keys() >= {"encode", "decode"}
    assert case["time_by_floor"] > 0
    assert "times less than the official generator" in said
    assert plot.exists()


def test_pictures_that_come_and_go_beside_groups(tmp_path):
    file = tmp_path / "flow.json"
    done = CliRunner().invoke(app, ["bench", "flow", "--images", "3", "--json", str(file)])
    assert done.exit_code == 0, done.output
    figures = json.loads(file.read_text())
    assert figures["pictures"] == figures["same_words"] == 3
    assert figures["sizes"] == 2
    assert 0 < figures["flow"]["g_filled"] <= 1
    assert "times fewer batches of g" in done.output


def test_a_sam_that_there_is_not_is_refused():
    refused = CliRunner().invoke(app, ["bench", "sam", "--sam", "vit_x"])
    assert refused.exit_code == 2
    assert "vit_x: there are tiny, vit_b, vit_l, vit_h" in " ".join(refused.output.replace("│", " ").split())


def test_memory_by_stage(bench):
    cases, said = bench("memory", "--models", "tiny", "--size", "64x48", "--words", "5")
    assert list(cases) == ["64x48, 5 words"]
    for case in cases.values():
        assert case["highest_rss"] >= case["idle_rss"] > 2**20
        assert case["peak_rss"].keys() >= {"models", "texts", "encode", "recurrence", "finishing"}
    assert "8 GiB" in said


@pytest.mark.slow
def test_all_of_them_in_one_folder(tmp_path):
    folder = tmp_path / "all"
    command = ["bench", "all", "--models", "tiny", "--json", str(folder)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    written = {file.name for file in folder.iterdir()}
    assert written == {
        "segmenter.json", "segmenter.png", "crf.json", "crf.png", "sam.json", "sam.png", "flow.json", "memory.json",
    }  # fmt: skip
    (case,) = json.loads((folder / "segmenter.json").read_text())["cases"].values()
    assert case["prompts"]["ratio"] > 0


def test_one_that_fails_is_named_and_the_others_run(tmp_path, monkeypatch):
    pytest.importorskip("pydensecrf")
    few = {"sam": ["sam", "--sam", "vit_x"], "crf": runs(Where.CPU, Scale.TINY)["crf"]}
    monkeypatch.setattr(sys.modules["cli.bench.every"], "runs", lambda *_: few)
    done = CliRunner().invoke(app, ["bench", "all", "--models", "tiny", "--json", str(tmp_path)])
    assert done.exit_code == 1
    assert "sam failed" in done.stderr
    assert {file.name for file in tmp_path.iterdir()} == {"crf.json", "crf.png"}


@pytest.mark.parametrize("device", list(Where))
@pytest.mark.parametrize("models", list(Scale))
def test_what_all_runs_are_commands_that_there_are(device, models):
    for arguments in runs(device, models).values():
        shown = CliRunner().invoke(app, ["bench", *arguments, "--help"])
        assert shown.exit_code == 0, shown.output
