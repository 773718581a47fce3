"""The roofline: floors of stages and measured peaks of the machine."""

import pytest
import torch

from benchmarks.roofline import Floor, Peaks, Stage, measure_peaks
from evaluation.stopwatch import Stopwatch, clock_of

PEAKS = Peaks(flop_per_s=100.0, bytes_per_s=10.0)


def test_the_longer_of_arithmetic_and_traffic_rules():
    assert Floor(flop=200.0, moved=10.0).seconds(PEAKS) == 2.0
    assert Floor(flop=200.0, moved=10.0).ruled_by(PEAKS) == "arithmetic"
    assert Floor(flop=200.0, moved=30.0).seconds(PEAKS) == 3.0
    assert Floor(flop=200.0, moved=30.0).ruled_by(PEAKS) == "memory"


def test_floors_add_up_and_repeat():
    assert Floor(1.0, 2.0) * 3 + Floor(flop=1.0) == Floor(4.0, 6.0)


def test_the_time_of_a_stage_is_compared_with_its_floor():
    figures = Stage(3.0, Floor(flop=100.0)).to_json(PEAKS)
    assert (figures["floor_seconds"], figures["times_floor"], figures["ruled_by"]) == (1.0, 3.0, "arithmetic")
    assert Stage(3.0, Floor()).to_json(PEAKS)["times_floor"] is None
    assert Stage(3.0).to_json(PEAKS) == {"seconds": 3.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_peaks_are_measured_in_the_precision_asked_for(dtype):
    peaks = measure_peaks(torch.device("cpu"), dtype, turns=1, scale=0.02)
    assert peaks.flop_per_s > 1e6
    assert peaks.bytes_per_s > 1e6


def test_a_cpu_is_timed_by_the_seconds_that_the_process_computed():
    clock = clock_of(torch.device("cpu"))
    start = clock()
    torch.rand(200, 200) @ torch.rand(200, 200)
    assert clock() > start


def test_a_stopwatch_keeps_the_least_total_of_a_stage_over_the_turns():
    times = iter([0.0, 3.0, 10.0, 12.0, 20.0, 21.0])
    watch = Stopwatch(lambda: next(times))
    with watch.stage("a"):
        pass
    with watch.stage("a"):
        pass
    watch.end_turn()
    with watch.stage("a"):
        pass
    watch.add("b", 7.0)
    watch.end_turn()
    assert watch.least == {"a": 1.0, "b": 7.0}
    assert not watch.spent
