"""What the docs say is what the code does."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from api.app import create_app
from api.settings import ApiSettings
from cli.main import app
from db.settings import EngineSettings
from tests.support.paths import ROOT
from worker.settings import WorkerSettings

PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "demo").glob("*.md")]
)


def test_the_page_of_recipes_is_what_the_command_prints():
    page = CliRunner().invoke(app, ["recipes", "markdown"])
    assert page.exit_code == 0
    assert (ROOT / "docs" / "recipe.md").read_text() == page.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_into_the_repository_leads_somewhere(page: Path):
    targets = re.findall(r"\]\(([^)#]+)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []


def test_every_make_target_of_the_docs_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"`?make ([a-z-]+)`", page.read_text())) <= targets, page


def test_the_page_of_settings_is_what_the_command_prints_and_tells_every_one():
    page = CliRunner().invoke(app, ["settings", "--markdown"])
    assert page.exit_code == 0
    assert (ROOT / "docs" / "settings.md").read_text() == page.stdout
    for kind in (EngineSettings, WorkerSettings, ApiSettings):
        for field in kind.model_fields.values():
            assert f"| {field.alias} | " in page.stdout
            assert field.description


_CAR = re.compile(
    r"(?:^|\$\(|^docker compose .* (?:api|worker-gpu|migrate) )(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?car ([^|)\n]+)",
    re.MULTILINE,
)


def commands_of(page: Path) -> list[str]:
    """What follows `car` in the page's blocks of commands."""
    blocks = re.findall(r"^```(?:bash)?\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in _CAR.findall(block.replace("\\\n", " "))]


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and its arguments."""
    command: Any = get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def test_every_command_of_the_docs_takes_what_it_is_given_there():
    told = [line for page in PAGES for line in commands_of(page)]
    assert len(told) > 30
    for line in told:
        command, arguments = command_of(shlex.split(line, comments=True))
        assert not hasattr(command, "commands"), line
        command.make_context("car", arguments)  # parses, and does not run


def test_every_command_and_option_inside_a_sentence_exists():
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for line in re.findall(r"`car ([^`]+)`", text):
            command, words = command_of(shlex.split(line))
            options = {option for one in command.params for option in one.opts}
            assert {word for word in words if word.startswith("--")} <= options | {"--help"}, (page, line)
            assert not words or words[0].startswith("-") or not hasattr(command, "commands"), (page, line)


def test_every_address_of_the_docs_is_one_of_the_api():
    settings = {"DATABASE_URL": "postgresql://x", "CELERY_BROKER_URL": "redis://x", "S3_BUCKET": "bucket"}
    paths = [re.sub(r"{\w+}", "*", path) for path in create_app(ApiSettings(**settings)).openapi()["paths"]]
    for page in PAGES:
        for told in re.findall(r"(/api/v1/[\w/$%.-]+)", page.read_text()):
            plain = re.sub(r"\$\w+|(?<=masks/)[\w%]+", "*", told)
            assert plain in paths, (page, told)


def test_no_file_names_a_package_registry():
    suffixes = {".py", ".md", ".toml", ".lock", ".yml", ".txt", ".json"}
    hosts = re.compile(r"files\.pythonhosted|pypi\.org|registry\.npmjs|--(extra-)?index-url")
    skipped = {".venv", ".venv-label-studio", ".git", "out", ".car"}
    for path in ROOT.rglob("*"):
        if path.suffix in suffixes and not skipped & set(path.relative_to(ROOT).parts) and path != Path(__file__):
            assert not hosts.search(path.read_text(errors="ignore")), path
