"""The CPUs that a process may use are bounded by its container's quota."""

import os

import pytest

from worker.settings import usable_cpus

ALL_CPUS = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [("max 100000", ALL_CPUS), ("100000 100000", 1), ("1000 100000", 1), ("99900000 100000", ALL_CPUS)],
)
def test_the_quota_of_cgroup_2_bounds_the_cpus(tmp_path, quota, cpus):
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert usable_cpus(tmp_path) == cpus


@pytest.mark.parametrize(("quota", "cpus"), [("-1", ALL_CPUS), ("50000", 1)])
def test_the_quota_of_cgroup_1_bounds_the_cpus(tmp_path, quota, cpus):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert usable_cpus(tmp_path) == cpus


def test_without_a_quota_all_cpus_count(tmp_path):
    assert usable_cpus(tmp_path) == ALL_CPUS
