"""A container's share of the processor, as its control group tells it."""

import os

import pytest

from worker.cpu_count import usable_cpus

THERE = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", THERE), ("100000 100000", 1), ("1000 100000", 1), ("99900000 100000", THERE)]
)
def test_no_more_cores_are_used_than_the_container_has_time_for(tmp_path, quota, cores):
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert usable_cpus(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", THERE), ("50000", 1)])
def test_older_control_groups_tell_it_in_two_files(tmp_path, quota, cores):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert usable_cpus(tmp_path) == cores


def test_where_nothing_is_told_every_core_counts(tmp_path):
    assert usable_cpus(tmp_path) == THERE
