"""`python -m benchmarks code_size [REV]`: files, lines and functions of the Python code, by package.

It counts the working tree or a git revision, so before and after are one command each. Comments and blank lines count.
A function's lines include its decorators and nested functions, which are counted on their own as well.
"""

import ast
import io
import math
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.commands.bench.display import number_table
from cli.commands.bench.options import JsonOption
from cli.commands.bench.report import Report
from cli.errors import UsageError

SHIPPED = ("car", "db", "worker", "api", "client", "cli", "evaluation", "demo")
"""The wheel's packages without migrations, whose length the schema dictates."""
SEPARATE = ("benchmarks", "tests")


@dataclass(frozen=True)
class CodeSize:
    """Sizes of a group of files."""

    files: int
    lines: int
    file_median: int
    file_p90: int
    functions: int
    function_median: int
    function_p90: int

    @classmethod
    def from_files(cls, sources: Iterable[str]) -> "CodeSize":
        """Raises: SyntaxError, for a source that this version of Python does not parse."""
        sources = list(sources)
        lengths = [len(source.splitlines()) for source in sources]
        functions = [length for source in sources for length in function_lengths(source)]
        return cls(
            files=len(lengths),
            lines=sum(lengths),
            file_median=_percentile(lengths, 0.5),
            file_p90=_percentile(lengths, 0.9),
            functions=len(functions),
            function_median=_percentile(functions, 0.5),
            function_p90=_percentile(functions, 0.9),
        )


def code_size(
    context: typer.Context,
    revision: Annotated[
        str | None, typer.Argument(metavar="REV", help="A git revision instead of the working tree.")
    ] = None,
    *,
    repository: Annotated[Path, typer.Option(help="Folder of the repository.")] = Path(),
    json_file: JsonOption = None,
) -> None:
    """Count Python files, lines and functions by package, in the working tree or in a git revision.

    "shipped" is car, db, worker, api, client, cli, evaluation and demo, without migrations, hatch_build.py, benchmarks
    and tests.
    """
    report = Report.start(context, json_file)
    figures = measure(_sources(repository, revision))
    columns = ("files", "lines", "median", "p90", "functions", "median", "p90")
    table = number_table("", *columns, title=f"{revision or 'working tree'}: lines of files and functions")
    table.columns[0].no_wrap = True
    for name, size in figures.items():
        table.add_row(
            name, *(f"{value:,}" for value in asdict(size).values()), style="bold" if name == "shipped" else ""
        )
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(f"shipped: {', '.join(SHIPPED)}; not migrations, hatch_build.py, benchmarks and tests")
    report.finish({"revision": revision, "sizes": {name: asdict(size) for name, size in figures.items()}})


def measure(sources: Mapping[str, str]) -> dict[str, CodeSize]:
    """Return the sizes of every package, of all shipped packages together, of benchmarks, tests and other files."""
    by_package: dict[str, list[str]] = {}
    for path, source in sources.items():
        by_package.setdefault(path.partition("/")[0], []).append(source)
    groups = {name: by_package.pop(name) for name in SHIPPED if name in by_package}
    groups["shipped"] = [source for group in groups.values() for source in group]
    groups |= {name: by_package.pop(name, []) for name in SEPARATE} | by_package
    return {name: CodeSize.from_files(group) for name, group in groups.items()}


def function_lengths(source: str) -> list[int]:
    """Return the lines of each function and method."""
    return [
        (node.end_lineno or node.lineno) - min(item.lineno for item in (node, *node.decorator_list)) + 1
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def _sources(repository: Path, revision: str | None) -> dict[str, str]:
    """Return the text of every Python file by its path. Raises: UsageError, for no repository or unknown revision."""
    if revision is None:
        listed = (
            _git(repository, "ls-files", "--cached", "--others", "--exclude-standard", "*.py").decode().splitlines()
        )
        return {path: (repository / path).read_text() for path in listed if (repository / path).is_file()}
    with tarfile.open(fileobj=io.BytesIO(_git(repository, "archive", "--format=tar", revision))) as archive:
        files = {member.name: archive.extractfile(member) for member in archive if member.name.endswith(".py")}
        return {path: file.read().decode() for path, file in files.items() if file is not None}


def _git(repository: Path, *arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, check=False)  # noqa: S603, S607
    if done.returncode:
        raise UsageError(f"git {arguments[0]} failed: {done.stderr.decode().strip()}")
    return done.stdout


def _percentile(values: Sequence[int], share: float) -> int:
    """Return the value of the nearest rank; 0 without values."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else 0
