"""The benchmarks of the models, at small size: every figure is filled, and `all` runs them all."""

import json
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from benchmarks import run_all
from benchmarks.__main__ import MODULES, app
from cli.commands.bench.options import BenchDevice, ModelSize


def test_the_crf_beside_pydensecrf(measure):
    pytest.importorskip("pydensecrf")
    figures, output = measure("crf", "--size", "64x48", "--labels", "2", "--labels", "4", "--turns", "1")
    assert list(figures["cases"]) == ["64x48, 2 labels", "64x48, 4 labels"]
    for case in figures["cases"].values():
        assert case["agreement"] >= 0.999
        assert case["seconds"].keys() >= {"pydensecrf", "lattice"}
        assert case["floor_seconds"] > 0
    assert "x floor" in output


def test_sam_beside_the_official_generator(measure):
    figures, output = measure("sam", "--sam", "tiny", "--size", "64x48", "--points", "4")
    (case,) = figures["cases"].values()
    assert case["matched_share"] >= 0.98
    assert case["ours_s"].keys() >= {"encode", "decode"}
    assert case["time_by_floor"] > 0
    assert "times as fast" in output


def test_continuous_batching_beside_static_groups(measure):
    figures, output = measure("batching", "--images", "3")
    assert figures["images"] == figures["same_words"] == 3
    assert figures["sizes"] == 2
    assert 0 < figures["continuous"]["g_filled"] <= 1
    assert "times fewer batches of g" in output


def test_memory_by_stage(measure):
    figures, output = measure("memory", "--models", "tiny", "--size", "64x48", "--words", "5")
    (case,) = figures["cases"].values()
    assert case["highest_rss"] >= case["idle_rss"] > 2**20
    assert case["peak_rss"].keys() >= {"models", "texts", "encode", "recurrence", "finishing"}
    assert "8 GiB" in output


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_of_them_in_one_folder(tmp_path):
    folder = tmp_path / "all"
    done = CliRunner().invoke(app, ["all", "--models", "tiny", "--json", str(folder)])
    assert done.exit_code == 0, done.output
    assert {file.stem for file in folder.iterdir()} == MODULES.keys() - {"all", "compare", "code_size"}
    (case,) = json.loads((folder / "segmenter.json").read_text())["cases"].values()
    assert case["ratio_official"] > 0


def test_one_that_fails_is_named_and_the_others_run(tmp_path, monkeypatch):
    ran = []

    def run(command, **_):
        ran.append(command[3])
        return SimpleNamespace(returncode=int(command[3] == "sam"))

    monkeypatch.setattr(run_all.subprocess, "run", run)
    done = CliRunner().invoke(app, ["all", "--models", "tiny", "--json", str(tmp_path)])
    assert done.exit_code == 1
    assert "Failed: sam;" in done.stderr
    assert MODULES.keys() - set(ran) == {"all", "compare", "code_size"}


@pytest.mark.parametrize("device", list(BenchDevice))
@pytest.mark.parametrize("models", list(ModelSize))
def test_all_runs_commands_that_exist(device, models):
    for arguments in run_all.commands(device, models).values():
        shown = CliRunner().invoke(app, [*arguments.split(), "--help"])
        assert shown.exit_code == 0, shown.output


def test_service_benchmarks_run_once_and_not_on_a_gpu():
    assert "engine" in run_all.commands(BenchDevice.CPU, ModelSize.FULL)
    assert "engine" not in run_all.commands(BenchDevice.CUDA, ModelSize.FULL)


def test_every_benchmark_explains_itself():
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert all(name in shown.output for name in MODULES)
