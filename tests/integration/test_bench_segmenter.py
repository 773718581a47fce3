"""`car bench segmenter`: what is timed is real work, and what is computed from counts is what a full run does."""

import json
from itertools import pairwise

import pytest
import torch

from evaluation.random_models import TINY_F, TINY_G, VIT_B16, VIT_L14
from evaluation.segmenter_cost import Setting, floor
from evaluation.segmenter_speed import compare

CHECKED = {
    "ratio_official", "ratio_autograd", "ours_cpu_s", "official_cpu_s", "autograd_cpu_s", "counts", "stages", "size",
    "queries", "templates", "threads", "torch",
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
    least = floor(Setting(width=512, height=384, shapes=(VIT_B16, VIT_L14)))
    assert least["f_picture"] == pytest.approx(0.153, abs=0.001)
    assert least["g_crop"] == pytest.approx(0.155, abs=0.001)


@pytest.mark.slow
def test_full_size_official_scheme_costs_many_times_more():
    result = compare(Setting(turns=1), lambda *_: None)
    figures = result.to_json()
    assert figures["ratio_crops"] >= 15
    assert figures["ratio_official"] >= 12  # 15 to 20 on a quiet machine
    assert figures["ratio_autograd"] > 1
