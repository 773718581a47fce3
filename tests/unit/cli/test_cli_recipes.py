"""`car` and `car recipes`: what they list, and their errors."""

from dataclasses import fields

import pytest
from typer.testing import CliRunner

from car.presets import PRESETS
from car.recipe import Recipe, key_of
from cli.main import app


@pytest.fixture
def car(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_the_version_is_that_of_the_package(car):
    assert car("--version").stdout.startswith("car 0.")


def test_help_names_every_command(car):
    result = car("--help")
    assert result.exit_code == 0
    assert all(command in result.stdout for command in ("segment", "models", "recipes"))


def test_the_list_of_recipes_has_every_preset(car):
    result = car("recipes", "list")
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == list(PRESETS)


def test_a_recipe_shows_every_key_that_can_be_set(car):
    keys = {line.split()[0] for line in car("recipes", "show", "coco").stdout.splitlines()}
    assert keys >= {key_of(field.name) for field in fields(Recipe)} - {"preset"} | {"arithmetic"}


def test_an_unknown_recipe_is_named(car):
    result = car("recipes", "show", "nonsense")
    assert result.exit_code == 2
    assert "nonsense" in result.stderr
