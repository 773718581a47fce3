"""`python -m benchmarks code_size` counts the working tree or any git revision."""

import subprocess

import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.code_size import CodeSize, function_lengths
from benchmarks.code_size import measure as sizes_of

DECORATED = """
@decorator
def outer():
    def inner():
        return 1

    return inner


class Thing:
    async def method(self): ...
"""


def test_functions_are_counted_with_decorators_methods_and_nested_ones():
    assert sorted(function_lengths(DECORATED)) == [1, 2, 6]


def test_percentiles_are_those_of_the_nearest_rank():
    size = CodeSize.from_files(["x = 1\n" * lines for lines in range(1, 11)])
    assert (size.files, size.lines, size.file_median, size.file_p90) == (10, 55, 5, 9)
    assert (size.functions, size.function_median, size.function_p90) == (0, 0, 0)


def test_shipped_code_is_counted_without_benchmarks_tests_and_migrations():
    lines = {"car/a.py": 1, "worker/pipeline/b.py": 2, "benchmarks/c.py": 4, "tests/d.py": 8, "migrations/e.py": 16}
    sizes = sizes_of({path: "x = 1\n" * count for path, count in lines.items()} | {"hatch_build.py": ""})
    counted = {name: size.lines for name, size in sizes.items()}
    assert counted == {
        "car": 1, "worker": 2, "shipped": 3, "benchmarks": 4, "tests": 8, "migrations": 16, "hatch_build.py": 0,
    }  # fmt: skip


@pytest.fixture
def repository(tmp_path):
    """One commit with one line, and more in the working tree."""
    folder = tmp_path / "repository"
    (folder / "car").mkdir(parents=True)
    (folder / ".gitignore").write_text("ignored.py\n")
    (folder / "car" / "old.py").write_text("x = 1\n")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    for command in (("init", "-q"), ("add", "."), (*identity, "commit", "-q", "-m", "first")):
        subprocess.run(["git", *command], cwd=folder, check=True)
    (folder / "car" / "new.py").write_text("x = 1\ny = 2\n")
    (folder / "car" / "ignored.py").write_text("x = 1\n" * 100)
    return folder


def test_a_revision_and_the_working_tree_are_counted(measure, repository):
    shipped = [
        measure("code_size", *revision, "--repository", str(repository))[0]["sizes"]["shipped"]
        for revision in (["HEAD"], [])
    ]
    assert [(size["files"], size["lines"]) for size in shipped] == [(1, 1), (2, 3)]


def test_an_unknown_revision_is_refused(repository):
    refused = CliRunner().invoke(app, ["code_size", "nothing", "--repository", str(repository)])
    assert refused.exit_code == 2
    assert "not a valid object name" in refused.stderr
