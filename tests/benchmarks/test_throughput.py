"""Throughput: images a second, and the share of the time in which a device computes."""

import time

import pytest
import torch

from benchmarks.throughput import busy_share, covered, measure_throughput

CPU = torch.device("cpu")


def test_what_overlaps_counts_once():
    assert covered([]) == 0
    assert covered([(0, 2), (5, 6)]) == 3
    assert covered([(5, 6), (0, 2), (1, 3), (1, 2)]) == 4


def test_images_a_second_are_those_after_the_warm_up():
    done = []
    throughput = measure_throughput(lambda images: (done.append(images), time.sleep(0.02 * images)), 5, CPU, warm_up=2)
    assert done == [2, 5]
    assert throughput.images_per_s == pytest.approx(5 / throughput.seconds)
    assert throughput.seconds >= 0.1
    assert throughput.busy_share < 0.9  # it slept
    assert throughput.to_json()["peak_memory"] is None


def test_a_device_that_waits_is_not_busy():
    matrix = torch.rand(300, 300)

    def computing(images: int) -> None:
        for _ in range(20 * images):
            matrix @ matrix

    def waiting(images: int) -> None:
        computing(1)
        time.sleep(0.3 * images)

    assert busy_share(waiting, 1, CPU) < busy_share(computing, 1, CPU) <= 1
