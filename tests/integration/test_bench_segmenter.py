"""`car bench segmenter`: what is timed is real work, and what is computed from counts is what a full run does."""

import json
from itertools import pairwise

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from car.precision import Precision
from cli.main import app
from evaluation.random_models import TINY_F, TINY_G, VIT_B16, VIT_L14
from evaluation.segmenter_cost import Setting
from evaluation.segmenter_floor import crop_flop, picture_flop
from evaluation.segmenter_speed import compare
from worker.segmenter.segmenter import Batches

CHECKED = {
    "ratio_official", "ratio_autograd", "ours_s", "official_s", "autograd_s", "counts", "stages", "size", "queries",
    "templates", "threads", "torch", "device", "precision", "peaks",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread():
    """CPU seconds count waiting threads too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_full_run_scores_as_ours_and_fills_every_figure():
    seen = []
    setting = Setting(
        width=128, height=96, survivors=3, steps=3, turns=1, full=True, shapes=(TINY_F, TINY_G), gain=4.0, scale=20.0
    )
    result = compare(setting, lambda what, done, total: seen.append((what, done, total)))
    figures = json.loads(json.dumps(result.to_json()))
    assert figures.keys() >= CHECKED
    assert figures["queries_of_steps"][:2] == [10, 3]
    assert figures["official_is"] == "measured"
    assert figures["ratio_crops"] >= 15
    assert figures["counts"]["official"]["g: crop"] == 15 * sum(figures["queries_of_steps"])
    for look, step in zip(result.looks, result.full_steps, strict=True):
        # A CAM that differs in its last bit may carry a pixel over eta, which a tiny model's crop shows.
        assert [query.score for query in look.step.queries] == pytest.approx(step.scores, abs=5e-3)
    assert all(a[1] <= b[1] <= b[2] for a, b in pairwise(seen)), "progress never runs backwards or over its end"


@pytest.mark.parametrize(("queries", "survivors", "steps"), [(10, 11, 2), (10, 0, 2), (21, 1, 2), (10, 1, 0)])
def test_settings_that_cannot_be_are_refused(queries, survivors, steps):
    with pytest.raises(ValueError, match="survivors"):
        Setting(queries=queries, survivors=survivors, steps=steps)


def test_the_arithmetic_floor_of_the_real_models():
    assert picture_flop(VIT_B16, 384, 512) / 1e12 == pytest.approx(0.153, abs=0.001)
    assert crop_flop(VIT_L14) / 1e12 == pytest.approx(0.149, abs=0.001)


def test_no_stage_can_be_below_its_floor_and_no_run_does_less_arithmetic_than_it():
    """The floor is what shapes demand, so the counted arithmetic holds it; blanks of batches and texts come on top."""
    setting = Setting(
        width=128, height=96, queries=4, survivors=2, turns=1, shapes=(TINY_F, TINY_G), gain=4.0, scale=20
    )
    result = compare(setting, lambda *_: None)
    demanded = sum(stage.floor.flop for name, stage in result.told.items() if stage.floor and name != "text")
    assert 0.8 * demanded < result.counted_ours.flop < 2 * demanded
    assert result.forwards[0] == result.work.proposal_forwards == 1
    assert result.work.crops_encoded / 4 <= result.forwards[1] <= result.work.crops_encoded
    told = result.to_json()["stages"]
    assert told.keys() == {"text", "encode", "proposal", "classifier", "crf"}
    assert all(stage["times_floor"] > 1 for stage in told.values())


def test_models_of_half_the_precision_are_measured_beside_the_same_official_ones():
    setting = Setting(
        width=64,
        height=48,
        queries=3,
        turns=1,
        precision=Precision.BFLOAT16,
        stream=2,
        shapes=(TINY_F, TINY_G),
        gain=4.0,
        scale=20,
    )
    figures = compare(setting, lambda *_: None).to_json()
    assert (figures["precision"], figures["official_precision"]) == ("bfloat16", "float32")
    assert figures["peaks"].keys() == {"float32", "bfloat16"}  # of g's blocks, and of all else
    assert figures["stream"]["images_per_s"] > 0
    assert 0 < figures["stream"]["busy_share"] <= 1


def test_pictures_that_share_batches_bear_a_part_of_them_each():
    batches, tiny = Batches(images=2, crops=8), {"shapes": (TINY_F, TINY_G), "gain": 4.0, "scale": 20.0}
    setting = Setting(width=64, height=48, queries=4, turns=1, stream=5, batches=batches, **tiny)
    result = compare(setting, lambda *_: None)
    assert setting.company == 4
    assert result.forwards == (0.5, 0.5)  # four pictures: two batches of f, and sixteen crops in two of g
    assert result.sizes == [4, 1]
    assert result.stream.images == 5


@pytest.fixture
def bench():
    def run(*arguments):
        small = ("--models", "tiny", "--size", "64x48", "--turns", "1")
        return CliRunner().invoke(app, ["bench", "segmenter", *small, *arguments], env={"COLUMNS": "150"})

    return run


def test_several_settings_in_one_call_make_one_file_and_one_picture(bench, tmp_path):
    kept, drawn = tmp_path / "new" / "bench.json", tmp_path / "bench.png"
    done = bench("--size", "96x64", "--queries", "3", "--queries", "4", "--json", str(kept), "--plot", str(drawn))
    assert done.exit_code == 0, done.output
    record = json.loads(kept.read_text())
    assert (record["schema"], record["bench"]) == (1, "segmenter")
    assert record["command"].startswith(
        "car bench segmenter --size 64x48 --size 96x64 --queries 3 --queries 4 --models"
    )
    assert "--json" not in record["command"]
    assert record["machine"].keys() >= {"cores", "processor", "features", "gpu", "torch", "load_before"}
    assert record["setting"]["precision"] == "float32"
    assert list(record["cases"]) == [f"{size}, {n} queries" for size in ("64x48", "96x64") for n in (3, 4)]
    assert "times the floor" in done.output
    assert "times less" in done.output
    with Image.open(drawn) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width == 900


def test_new_figures_stand_beside_those_of_an_earlier_file(bench, tmp_path):
    kept = tmp_path / "old.json"
    assert bench("--queries", "3", "--json", str(kept)).exit_code == 0
    record = json.loads(kept.read_text())
    case = record["cases"]["64x48, 3 queries"]
    case["stages"]["encode"]["seconds"] /= 1000
    case["stages"]["classifier"]["seconds"] *= 1000
    kept.write_text(json.dumps(record))
    again = bench("--queries", "3", "--queries", "4", "--compare", str(kept))
    assert again.exit_code == 0, again.output
    rows = {line.split("│")[1].strip(): line for line in again.output.splitlines() if line.count("│") == 6}
    assert "slower" in rows["stages / encode / seconds"]
    assert "faster" in rows["stages / classifier / seconds"]
    strict = bench("--queries", "3", "--compare", str(kept), "--fail-above", "100")
    assert strict.exit_code == 1
    assert "64x48, 3 queries stages / encode / seconds got" in strict.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--queries", "4"), "none of these settings: 64x48, 3 queries there, 64x48, 4 queries here"),
        (("--queries", "3", "--survivors", "2"), "survivors (1 there, 2 here)"),
        (("--queries", "3", "--precision", "bfloat16"), "precision (float32 there, bfloat16 here)"),
    ],
)
def test_other_settings_are_not_compared_and_nothing_is_measured(bench, tmp_path, arguments, told):
    kept = tmp_path / "old.json"
    assert bench("--queries", "3", "--json", str(kept)).exit_code == 0
    refused = bench(*arguments, "--compare", str(kept))
    assert refused.exit_code == 2
    assert told in " ".join(refused.stderr.split())
    assert "times less" not in refused.output


def test_cuda_is_refused_in_words_where_there_is_none(bench):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    refused = bench("--device", "cuda")
    assert refused.exit_code == 2
    assert "finds no CUDA device here" in refused.stderr


@pytest.mark.slow
def test_full_size_official_scheme_costs_many_times_more():
    result = compare(Setting(turns=1), lambda *_: None)
    figures = result.to_json()
    assert figures["ratio_crops"] >= 15
    assert figures["ratio_official"] >= 12  # 15 to 20 on a quiet machine
    assert figures["ratio_autograd"] > 1
