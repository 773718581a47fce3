"""`car models`: what is listed, and what is said where something is missing."""

import pytest
from typer.testing import CliRunner

from cli.main import app


@pytest.fixture
def car(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_the_list_of_models_has_the_demo_pair_and_every_hub_id(car, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = car("models", "list")
    assert result.exit_code == 0
    names = ("demo proposal", "demo classifier", "openai/clip-vit-base-patch16", "openai/clip-vit-large-patch14")
    assert all(name in result.stdout for name in names)


def test_a_model_that_cannot_be_fetched_is_a_failure_in_words(car):
    result = car("models", "pull", "not a hub id")
    assert result.exit_code == 1
    assert "not a hub id could not be downloaded" in result.stderr
    assert "Traceback" not in result.output
