"""`car bench predict`: a real API process answers, and every figure is filled."""

import json

from typer.testing import CliRunner

from cli.main import app


def test_a_selection_is_measured_new_queued_and_known_with_small_requests_beside_it(tmp_path):
    file = tmp_path / "figures.json"
    arguments = ["bench", "predict", "--tasks", "30", "--projects", "2", "--quick", "--json", str(file)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    figures = json.loads(file.read_text())
    assert {phase: one["n"] for phase, one in figures["predict_ms"].items()} == {"new": 2, "queued": 2, "known": 2}
    assert figures["answer_bytes"] > 30 * 12_000  # all were known in the end
    for when in ("idle", "beside"):
        assert figures["small_ms"][when]["/health"]["median"] > 0
        assert figures["small_ms"][when]["/setup"]["median"] > 0
    assert "no worker alive" in done.output
