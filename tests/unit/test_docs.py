"""What the docs say is what the code does."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app

ROOT = Path(__file__).parents[2]
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


def test_every_command_of_the_docs_exists():
    commands = set()
    for page in PAGES:
        for block in re.findall(r"^```\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            commands |= {tuple(words) for words in re.findall(r"bin/car (\w+)(?: (\w+))?", block)}
    assert commands
    for group, command in commands:
        named = (
            [group, command]
            if group in {"models", "recipes", "evaluate", "bench", "segment"} - {"segment"}
            else [group]
        )
        assert CliRunner().invoke(app, [*named, "--help"]).exit_code == 0, named


def test_no_file_names_a_package_registry():
    suffixes = {".py", ".md", ".toml", ".lock", ".yml", ".txt", ".json"}
    hosts = re.compile(r"files\.pythonhosted|pypi\.org|registry\.npmjs|--(extra-)?index-url")
    skipped = {".venv", ".git", "out", ".car"}
    for path in ROOT.rglob("*"):
        if path.suffix in suffixes and not skipped & set(path.relative_to(ROOT).parts) and path != Path(__file__):
            assert not hosts.search(path.read_text(errors="ignore")), path
