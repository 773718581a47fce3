"""`python -m benchmarks segmenter`: the timed work is real, and computed times are those of a full run."""

import json

import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.segmenter_analysis import analyze
from benchmarks.segmenter_roofline import crop_flop, image_flop
from car.options import Precision
from evaluation.random_models import TINY_F, TINY_G, VIT_B16, VIT_L14
from evaluation.segmenter_speed import Setting
from worker.segmenter.segmenter import Batches

CHECKED = {
    "ratio_official", "ratio_autograd", "ours_s", "official_s", "autograd_s", "counts", "stages", "size", "queries",
    "templates", "threads", "torch", "device", "precision", "peaks",
}  # fmt: skip


def test_a_full_run_scores_as_ours_and_fills_every_figure():
    setting = Setting(
        width=128, height=96, survivors=3, steps=3, turns=1, shapes=(TINY_F, TINY_G), gain=4.0, scale=20.0
    )
    result = analyze(setting, full=True)
    figures = json.loads(json.dumps(result.to_json()))
    assert figures.keys() >= CHECKED
    assert figures["queries_of_steps"][:2] == [10, 3]
    assert figures["official_is"] == "measured"
    assert figures["ratio_crops"] >= 15
    assert figures["counts"]["official"]["g: crop"] == 15 * sum(figures["queries_of_steps"])
    for trace, step in zip(result.traces, result.full_steps, strict=True):
        # A CAM that differs in its last bit may carry a pixel over eta, which a tiny model's crop shows.
        assert [query.score for query in trace.step.queries] == pytest.approx(step.scores, abs=5e-3)


@pytest.mark.parametrize(("queries", "survivors", "steps"), [(10, 11, 2), (10, 0, 2), (21, 1, 2), (10, 1, 0)])
def test_settings_that_cannot_be_are_refused(queries, survivors, steps):
    with pytest.raises(ValueError, match="survivors"):
        Setting(queries=queries, survivors=survivors, steps=steps)


def test_the_arithmetic_floor_of_the_real_models():
    assert image_flop(VIT_B16, 384, 512) / 1e12 == pytest.approx(0.153, abs=0.001)
    assert crop_flop(VIT_L14) / 1e12 == pytest.approx(0.149, abs=0.001)


def test_no_stage_can_be_below_its_floor_and_no_run_does_less_arithmetic_than_it():
    """The floor is what shapes demand, so the counted arithmetic holds it; blanks of batches and texts come on top."""
    setting = Setting(
        width=128, height=96, queries=4, survivors=2, turns=1, shapes=(TINY_F, TINY_G), gain=4.0, scale=20
    )
    result = analyze(setting)
    demanded = sum(
        stage.floor.flop for name, stage in result.stages_with_floors.items() if stage.floor and name != "text"
    )
    assert 0.8 * demanded < result.counts.flop < 2 * demanded
    assert result.forwards[0] == result.work.proposal_forwards == 1
    assert result.work.crops_encoded / 4 <= result.forwards[1] <= result.work.crops_encoded
    stages = result.to_json()["stages"]
    assert stages.keys() == {"text", "encode", "proposal", "classifier", "crf"}
    assert all(stage["times_floor"] > 1 for stage in stages.values())


def test_models_of_half_the_precision_are_measured_beside_the_same_official_ones():
    setting = Setting(
        width=64,
        height=48,
        queries=3,
        turns=1,
        precision=Precision.BFLOAT16,
        shapes=(TINY_F, TINY_G),
        gain=4.0,
        scale=20,
    )
    figures = analyze(setting, stream=2).to_json()
    assert (figures["precision"], figures["official_precision"]) == ("bfloat16", "float32")
    assert figures["peaks"].keys() == {"float32", "bfloat16"}  # of g's blocks, and of all else
    assert figures["stream"]["images_per_s"] > 0
    assert 0 < figures["stream"]["busy_share"] <= 1


def test_images_that_share_batches_are_charged_a_part_each():
    batches, tiny = Batches(images=2, crops=8), {"shapes": (TINY_F, TINY_G), "gain": 4.0, "scale": 20.0}
    setting = Setting(width=64, height=48, queries=4, turns=1, batches=batches, **tiny)
    result = analyze(setting, stream=5)
    assert setting.images_together == 4
    assert result.forwards == (0.5, 0.5)  # four images: two batches of f, and sixteen crops in two of g
    assert result.sizes == [4, 1]
    assert result.throughput.images == 5


TINY = ("--models", "tiny", "--size", "64x48", "--turns", "1")


def test_several_settings_in_one_call_make_one_file(measure):
    record, output = measure("segmenter", *TINY, "--size", "96x64", "--queries", "3", "--queries", "4")
    assert (record["schema"], record["bench"]) == (1, "segmenter")
    assert record["command"].startswith(
        "python -m benchmarks segmenter --size 64x48 --size 96x64 --queries 3 --queries 4 --models"
    )
    assert "--json" not in record["command"]
    assert record["machine"].keys() >= {"cores", "processor", "features", "gpu", "torch", "load_before"}
    assert record["setting"]["precision"] == "float32"
    assert list(record["cases"]) == [f"{size}, {n} queries" for size in ("64x48", "96x64") for n in (3, 4)]
    assert all(case.keys() >= CHECKED for case in record["cases"].values())
    assert "times the floor" in output
    assert "times as fast" in output


def test_settings_that_cannot_be_are_refused_by_the_command():
    refused = CliRunner().invoke(app, ["segmenter", *TINY, "--queries", "3", "--survivors", "4"])
    assert refused.exit_code == 2
    assert "1 <= survivors (4) <= queries (3)" in " ".join(refused.output.replace("│", " ").split())


@pytest.mark.slow
def test_full_size_official_scheme_costs_many_times_more():
    result = analyze(Setting(turns=1))
    figures = result.to_json()
    assert figures["ratio_crops"] >= 15
    assert figures["ratio_official"] >= 12  # 15 to 20 on a quiet machine
    assert figures["ratio_autograd"] > 1
