"""Name linter: refuse the retired words of docs/glossary.md as names of modules, classes, functions, parameters
and fields.

Names are compared whole and without leading underscores: `airplane` and `priority_lane` pass where `lane` does not.
A retired word in lower case is refused in every spelling, a class name only as it is written.
Usage: `python .ci/check_names.py [ROOT]`; the exit code is 1 if a name is refused.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

GLOSSARY = Path("docs/glossary.md")
_ROW = re.compile(r"^\| (?P<retired>[^|]+) \| (?P<instead>[^|]+) \|$")
_NOTE = re.compile(r"\([^)]*\)")
_HEADING = "## Retired words"


class RefusedName(NamedTuple):
    """A retired word that is used as a name."""

    path: Path
    line: int
    kind: str
    name: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.kind} {self.name!r} is a retired word: use {self.instead} ({GLOSSARY})"


def retired_words(glossary: str) -> dict[str, str]:
    """Return each retired word of the glossary's last table and what to use instead."""
    _, _, table = glossary.partition(_HEADING)
    words: dict[str, str] = {}
    for row in map(_ROW.match, table.splitlines()):
        if row is None or row["retired"] == "retired" or not row["retired"].strip("- "):
            continue
        spellings = [word.strip() for word in _NOTE.sub("", row["retired"]).split(",")]
        words |= dict.fromkeys((_key(word) if word.islower() else word for word in spellings), row["instead"].strip())
    return words


def names(tree: ast.Module) -> Iterator[tuple[str, str, int]]:
    """Yield the kind, name and line of every class, function, parameter and field of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield "class", node.name, node.lineno
            yield from _fields(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield "function", node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield "parameter", node.arg, node.lineno


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, str, int]]:
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield "field", statement.target.id, statement.lineno
        elif isinstance(statement, ast.Assign):
            yield from (("field", t.id, t.lineno) for t in statement.targets if isinstance(t, ast.Name))


def refused_names(root: Path, paths: list[Path], words: dict[str, str]) -> Iterator[RefusedName]:
    """Yield every retired word that the Python files `paths` below `root` use as a name."""
    for path in paths:
        parts = path.with_suffix("").parts
        found_names = [("module", part, 1) for part in parts]
        found_names += names(ast.parse((root / path).read_text(encoding="utf-8")))
        for kind, name, line in found_names:
            instead = words.get(name.lstrip("_")) or words.get(_key(name))
            if instead is not None:
                yield RefusedName(path, line, kind, name, instead)


def main(root: Path) -> int:
    """Print the refused names of all Python files that git tracks below `root`, and return the exit code."""
    words = retired_words((root / GLOSSARY).read_text(encoding="utf-8"))
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],  # noqa: S607 - git is on the PATH
        cwd=root, check=True, capture_output=True, text=True,
    )  # fmt: skip
    paths = [Path(name) for name in listing.stdout.splitlines() if (root / name).exists()]
    refused = list(refused_names(root, paths, words))
    sys.stdout.writelines(f"{name}\n" for name in refused)
    sys.stdout.write(f"{len(paths)} files, {len(words)} retired words, {len(refused)} refused names\n")
    return 1 if refused else 0


def _key(name: str) -> str:
    """Return a name without case, leading underscores and word separators, so that `KeepAll` equals `keep_all`."""
    return name.strip().lstrip("_").replace("_", "").lower()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path()))
