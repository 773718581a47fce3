"""`car bench`: four commands for users, each with its table and its JSON."""

import pytest
import torch
from typer.testing import CliRunner

from cli.main import app as car

TINY = ("--models", "tiny", "--size", "64x48", "--turns", "1")


def test_the_segmenter_beside_the_official_scheme(car_bench):
    figures, output = car_bench("segmenter", *TINY, "--size", "96x64", "--queries", "3", "--queries", "4")
    assert (figures["schema"], figures["bench"]) == (1, "segmenter")
    assert figures["command"].startswith(
        "car bench segmenter --size 64x48 --size 96x64 --queries 3 --queries 4 --models"
    )
    assert "--json" not in figures["command"]
    assert figures["machine"].keys() >= {"cores", "processor", "features", "gpu", "torch", "load_before"}
    assert figures["setting"]["precision"] == "float32"
    assert figures["peak_memory_bytes"] > 2**20
    assert list(figures["cases"]) == [f"{size}, {n} queries" for size in ("64x48", "96x64") for n in (3, 4)]
    for case in figures["cases"].values():
        assert case["ratio_official"] == pytest.approx(case["official_s"] / case["ours_s"])
        assert case["stages"].keys() == {"text", "encode", "proposal", "classifier", "crf"}
        assert case["ours_s"] == pytest.approx(sum(s["seconds"] for n, s in case["stages"].items() if n != "text"))
        assert case["queries_of_steps"][1] == 1
    assert "times as fast" in output
    assert "MiB" in output


def test_the_crf_beside_pydensecrf(car_bench):
    pytest.importorskip("pydensecrf")
    figures, output = car_bench("crf", "--size", "64x48", "--labels", "2", "--labels", "4", "--turns", "1")
    assert list(figures["cases"]) == ["64x48, 2 labels", "64x48, 4 labels"]
    for case in figures["cases"].values():
        assert case["agreement"] >= 0.999
        assert case["seconds"].keys() == {"pydensecrf", "lattice"}
    assert "pydensecrf" in output


def test_sam_beside_the_official_generator(car_bench):
    figures, output = car_bench("sam", "--sam", "tiny", "--size", "64x48", "--points", "4", "--turns", "2")
    (case,) = figures["cases"].values()
    assert case["ours_s"].keys() == {"encode", "decode", "postprocess", "nms"}
    assert case["ratio_official"] == pytest.approx(sum(case["official_s"].values()) / sum(case["ours_s"].values()))
    assert "decode" in output


def test_the_engine_with_s3_and_without(car_bench):
    figures, output = car_bench("engine", "--items", "50", "--batch", "8", "--quick")
    for store in ("memory", "s3"):
        assert figures[store]["new"]["items_per_second"] > 0
        assert figures[store]["known"]["items_per_second"] > 0
    assert figures["command"] == "car bench engine --items 50 --batch 8 --quick"
    assert "memory (no S3)" in output


def test_an_unknown_sam_is_refused():
    refused = CliRunner().invoke(car, ["bench", "sam", "--sam", "vit_x"])
    assert refused.exit_code == 2
    assert "vit_x: choose from tiny, vit_b, vit_l, vit_h" in " ".join(refused.output.replace("│", " ").split())


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path):
    (tmp_path / "file").write_text("")
    refused = CliRunner().invoke(car, ["bench", "crf", "--json", str(tmp_path / "file" / "new.json")])
    assert refused.exit_code == 2
    assert "cannot be written" in refused.stderr


def test_cuda_is_refused_where_there_is_none():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    refused = CliRunner().invoke(car, ["bench", "segmenter", *TINY, "--device", "cuda"])
    assert refused.exit_code == 2
    assert "finds no CUDA device here" in refused.stderr
