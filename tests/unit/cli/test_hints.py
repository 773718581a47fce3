"""Hints name commands that can be copied, and folders that do not exist."""

import sys

import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.options import car_command


@pytest.mark.parametrize(
    ("typed", "on_path", "hint"),
    [
        (".venv/bin/car", False, ".venv/bin/car"),
        ("{bin}/car", True, "car"),
        ("my env/bin/car", False, "'my env/bin/car'"),
        ("/usr/lib/pytest", True, "car"),
    ],
)
def test_a_hint_names_car_as_it_can_be_run_here(monkeypatch, tmp_path, typed, on_path, hint):
    program = tmp_path / "car"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path) if on_path else "/nowhere")
    monkeypatch.setattr(sys, "argv", [typed.format(bin=tmp_path)])
    assert car_command() == hint


def test_a_data_folder_that_does_not_exist_is_named(monkeypatch, tmp_path):
    for name in ("CAR_API_URL", "CAR_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    done = CliRunner().invoke(app, ["jobs", "list", "--data-dir", str(tmp_path / "typo")])
    assert done.exit_code == 2
    assert f"{tmp_path}/typo does not exist" in done.output
    assert "--data-dir" in done.output
