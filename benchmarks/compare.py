"""`python -m benchmarks compare OLD NEW`: times and memory of two runs side by side, by pyperf.

The name of a figure contains its unit: seconds, milliseconds, a rate per second, or bytes. Ratios, counts and figures
of baselines are left out. A rate is compared as seconds per unit.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import pyperf
import typer
from rich.console import Console

from cli.errors import UsageError

_UNITS = {
    "s": ("second", 1.0),
    "seconds": ("second", 1.0),
    "ms": ("second", 1e-3),
    "rss": ("byte", 1.0),
    "cuda": ("byte", 1.0),
    "memory": ("byte", 1.0),
    "bytes": ("byte", 1.0),
    "mb": ("byte", 2.0**20),
}
"""pyperf's unit and a factor by a word of the figure's name."""
_BASELINES = (
    "official",
    "autograd",
    "reference",
    "pydensecrf",
    "static",
    "floor",
    "peak_flop",
    "peak_bytes_per",
    "tera",
)
_CONDITIONS = ("schema", "bench", "setting")
_MACHINE = ("processor", "cores", "gpu", "python", "torch", "load_before")


def compare(
    old: Annotated[Path, typer.Argument(help="JSON file of the earlier run, or the folder of `all`.")],
    new: Annotated[Path, typer.Argument(help="The same of the later run.")],
    *,
    min_difference: Annotated[float, typer.Option(min=0, help="Hide smaller differences, in percent.")] = 10.0,
) -> None:
    """Compare times and memory of two runs, and warn where they were measured differently."""
    runs = [_read(path) for path in (old, new)]
    for warning in _warnings(*runs):
        Console(stderr=True).print(f"[yellow]{warning}[/yellow]")
    figures = [measurements(run) for run in runs]
    if not figures[0].keys() & figures[1].keys():
        raise UsageError(f"{old} and {new} have no time and no memory in common")
    with TemporaryDirectory() as folder:
        files = [f"{folder}/{name}.json" for name in ("old", "new")]
        for file, values in zip(files, figures, strict=True):
            _suite(values).dump(file)
        options = ["--table", "--min-speed", str(min_difference)]
        command = [sys.executable, "-m", "pyperf", "compare_to", *options, *files]
        raise typer.Exit(subprocess.run(command, check=False).returncode)  # noqa: S603 - our own arguments


def measurements(run: Mapping[str, Any]) -> dict[str, tuple[str, float]]:
    """Return pyperf's unit and value of each time and each amount of memory in the JSON of a run."""
    values = {}
    for path, value in _numbers(run):
        unit = _unit(path)
        if unit is not None and value > 0:
            values[" / ".join(path)] = ("second", 1 / value) if unit == _RATE else (unit[0], unit[1] * value)
    return values


_RATE = ("rate", 1.0)


def _unit(path: tuple[str, ...]) -> tuple[str, float] | None:
    """Return the unit by the last part of the path that names one: `stages / encode / seconds` is a time."""
    if any(part.startswith(_BASELINES) for part in path):
        return None
    for part in reversed(path):
        if part.endswith(("_per_s", "_per_second")):
            return _RATE
        for word in part.split("_"):
            if word in _UNITS:
                return _UNITS[word]
    return None


def _numbers(node: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key not in (*_CONDITIONS, "machine"):
                yield from _numbers(value, (*path, str(key)))
    elif isinstance(node, list):
        for position, value in enumerate(node):
            name = value.get("filter", position) if isinstance(value, Mapping) else position
            yield from _numbers(value, (*path, str(name)))
    elif isinstance(node, int | float) and not isinstance(node, bool):
        yield path, float(node)


def _suite(values: Mapping[str, tuple[str, float]]) -> pyperf.BenchmarkSuite:
    return pyperf.BenchmarkSuite(
        [
            pyperf.Benchmark([pyperf.Run([value], metadata={"name": name, "unit": unit}, collect_metadata=False)])
            for name, (unit, value) in values.items()
        ]
    )


def _read(path: Path) -> dict[str, Any]:
    """Return the documents of a run by file name, or a single file's by its benchmark."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    try:
        documents = {file.stem: json.loads(file.read_text()) for file in files}
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise UsageError(f"{path} is not JSON: compare reads files written by --json") from None
    for name, document in documents.items():
        if not isinstance(document, dict) or not {*_CONDITIONS, "machine"} <= document.keys():
            raise UsageError(f"{path}: {name} was not written by a benchmark's --json")
    return documents if path.is_dir() else {document["bench"]: document for document in documents.values()}


def _warnings(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(old.keys() & new.keys()):
        pairs = [(part, old[name][part], new[name][part]) for part in _CONDITIONS]
        pairs += [(part, old[name]["machine"].get(part), new[name]["machine"].get(part)) for part in _MACHINE]
        for part, before, after in pairs:
            if before != after:
                yield f"{name}: another {part}: {before} in the old run, {after} in the new one"
