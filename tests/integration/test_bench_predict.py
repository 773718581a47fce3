"""`car bench predict`: a real API process answers, and every figure is filled."""

import json

from typer.testing import CliRunner

from cli.main import app


def test_a_selection_is_measured_new_queued_and_known_with_small_requests_beside_it(tmp_path):
    file = tmp_path / "figures.json"
    arguments = [
        "bench",
        "predict",
        "--tasks",
        "30",
        "--projects",
        "2",
        "--samples",
        "20",
        "--quick",
        "--json",
        str(file),
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    figures = json.loads(file.read_text())
    assert {"new", "queued", "known"} == set(figures["predict_ms"])
    assert all(one["n"] >= 2 for one in figures["predict_ms"].values())
    assert figures["answer_bytes"] > 30 * 12_000  # all were known in the end
    for when in ("idle", "beside"):
        assert set(figures["small_ms"][when]) == {"/health", "/setup", "floor"}
        for one in figures["small_ms"][when].values():
            assert one["n"] >= 20
            assert 0 < one["median"] <= one["p99"] <= one["max"]
            assert 0 <= one["late"] <= one["n"]
    assert "no worker alive" in done.output
