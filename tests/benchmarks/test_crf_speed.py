"""What `python -m benchmarks crf` measures, on a small image."""

from benchmarks.crf import measure_crf


def test_both_sides_are_measured_and_counted() -> None:
    cost = measure_crf(64, 48, 4, turns=1)
    assert cost.agreement >= 0.999
    assert set(cost.seconds) == {"pydensecrf", "lattice", "lattice: points", "lattice: iterations"}
    assert cost.seconds["lattice"] >= cost.seconds["lattice: points"]
    assert cost.to_json()["ratio_pydensecrf"] == cost.ratio > 0
    assert 10 < cost.launches < 40
    assert cost.products > 3 * 48 * 64 * (2 * 3 + 2 * 6)
    assert cost.bytes > 4 * 3 * 48 * 64
    assert cost.floor_seconds
