"""Old figures beside new ones: what may be compared, which way is better, and what got worse.

What a figure is stands in its name, as in every benchmark's JSON: seconds and milliseconds, rates a second, bytes,
ratios and shares. Counts have no better side and are told where they changed.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cli.errors import WrongUse

MARKED = 1.1
"""From this ratio on a figure is marked."""
_LEAST_SECONDS = 1e-3
"""Seconds that are fewer on both sides say nothing."""

_WORDS = frozenset({"s", "ms", "seconds"})
_BYTES = frozenset({"rss", "cuda", "mb", "mib", "bytes", "memory"})
_GOOD = frozenset({"ratio", "share", "agreement", "iou", "filled"})
_COUNTS = frozenset({"n", "late"})
_BASELINES = (
    "official",
    "autograd",
    "reference",
    "pydensecrf",
    "groups",
    "floor",
    "peak_flop",
    "peak_bytes_per",
    "gemm",
    "tera",
)
"""What these words begin is a yardstick of its run, not ours to make better."""


class Kind(StrEnum):
    """What a figure is, and so which way it should go."""

    TIME = "time"
    RATE = "rate"
    MEMORY = "memory"
    QUALITY = "quality"
    DISTANCE = "distance"
    """How far a time is from its floor."""
    NEUTRAL = "neutral"

    @property
    def less_is_better(self) -> bool:
        return self in (Kind.TIME, Kind.MEMORY, Kind.DISTANCE)


@dataclass(frozen=True)
class Change:
    """One figure of both files."""

    path: tuple[str, ...]
    old: float
    new: float

    @property
    def case(self) -> str:
        """The setting that it is of, where a record holds several."""
        return self.path[1] if self.path[0] == "cases" else ""

    @property
    def name(self) -> str:
        return " / ".join(self.path[2:] if self.case else self.path)

    @property
    def kind(self) -> Kind:
        return kind_of(self.path)

    @property
    def worse(self) -> float | None:
        """How many times as bad as it was; none where there is no better side, or no telling."""
        if self.kind is Kind.NEUTRAL or min(self.old, self.new) <= 0 or self._negligible:
            return None
        return self.new / self.old if self.kind.less_is_better else self.old / self.new

    @property
    def worth_telling(self) -> bool:
        return self.old != self.new or (self.kind is not Kind.NEUTRAL and self.new > 0)

    @property
    def mark(self) -> str:
        worse = self.worse
        if worse is None or 1 / MARKED <= worse <= MARKED:
            return ""
        if self.kind in (Kind.TIME, Kind.RATE):
            return "slower" if worse > MARKED else "faster"
        return "worse" if worse > MARKED else "better"

    @property
    def _negligible(self) -> bool:
        counted_in_seconds = self.kind is Kind.TIME and not any("ms" in part.split("_") for part in self.path)
        return counted_in_seconds and max(self.old, self.new) < _LEAST_SECONDS


def kind_of(path: tuple[str, ...]) -> Kind:
    """By the last part of the path that tells it: `stages_s / encode` is a time."""
    if path[-1] in _COUNTS or any(part.startswith(_BASELINES) for part in path):
        return Kind.NEUTRAL
    for part in reversed(path):
        words = set(part.split("_"))
        if re.search(r"_per_s(econd)?$", part):
            return Kind.RATE
        if part in ("times_floor", "time_by_floor"):
            return Kind.DISTANCE
        for kind, some in ((Kind.QUALITY, _GOOD), (Kind.MEMORY, _BYTES), (Kind.TIME, _WORDS)):
            if words & some:
                return kind
    return Kind.NEUTRAL


def read(file: Path) -> dict[str, Any]:
    """The record in a file that `--json` wrote.

    Raises:
        WrongUse: no such file, or something else is in it.

    """
    try:
        record = json.loads(file.read_text())
    except OSError as error:
        raise WrongUse(f"{file} cannot be read: {error.strerror}") from None
    except ValueError:
        raise WrongUse(f"{file} is no JSON; --compare takes what --json wrote") from None
    if not isinstance(record, dict) or not isinstance(record.get("schema"), int):
        raise WrongUse(f"{file} has no schema version: it was not written by `car bench … --json` of this release")
    return record


def check_comparable(file: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raises: WrongUse, which names what differs; measured alike means the same benchmark, setting and machine."""
    for key in ("schema", "bench"):
        if old.get(key) != new[key]:
            raise WrongUse(f"{file} holds another {key}: {old.get(key)} there, {new[key]} here")
    differing = [
        f"{name} ({_told(old.get(part, {}).get(name))} there, {_told(new[part].get(name))} here)"
        for part, names in (("setting", old.get("setting", {}) | new["setting"]), ("machine", _IDENTITY))
        for name in names
        if old.get(part, {}).get(name) != new[part].get(name)
    ]
    if differing:
        raise WrongUse(f"{file} was measured otherwise: {', '.join(differing)}; compare like with like")
    if "cases" in new and not set(old.get("cases", ())) & set(new["cases"]):
        known, asked = ("; ".join(record.get("cases", ())) for record in (old, new))
        raise WrongUse(f"{file} has none of these settings: {known} there, {asked} here")


_IDENTITY = ("processor", "cores", "gpu")


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Every number that both records hold, in the order of the new one."""
    known = dict(_numbers(old))
    return [Change(path, known[path], value) for path, value in _numbers(new) if path in known]


def show_changes(console: Console, file: Path, old: Mapping[str, Any], found: list[Change]) -> None:
    """Figures that have a better side, and counts that changed; a table for each case."""
    console.print(f"[bold]{file}, and now[/bold]")
    for case, some in groupby(found, key=lambda change: change.case):
        table = _table(case, [one for one in some if one.worth_telling])
        if table.row_count:
            console.print(table)
    worst = sum(change.mark in ("slower", "worse") for change in found)
    console.print(
        f"{worst} of {len(found)} figures got worse by more than {MARKED - 1:.0%}. Ratios to a baseline of one run say "
        "more than times of two runs: the machine may have had other work in one of them."
    )
    before = old.get("machine", {})
    told = [f"{name} {before[name]}" for name in ("torch", "python", "load_before") if before.get(name) is not None]
    if told:
        console.print(f"the old run: {', '.join(told).replace('_', ' ')}")


def _table(case: str, changes: list[Change]) -> Table:
    table = Table("", "old", "new", "ratio", "", title=case, title_justify="left")
    table.columns[0].overflow = "fold"
    for column in table.columns[1:4]:
        column.justify = "right"
    for change in changes:
        style = {"slower": "bold red", "worse": "bold red", "faster": "green", "better": "green"}.get(change.mark, "")
        ratio = f"{change.new / change.old:.2f}" if change.old else ""
        table.add_row(change.name, _short(change.old), _short(change.new), ratio, change.mark, style=style)
    return table


def _numbers(node: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if path or key not in ("schema", "machine", "setting"):
                yield from _numbers(value, (*path, str(key)))
    elif isinstance(node, list | tuple):
        for place, value in enumerate(node):
            name = value.get("filter", place) if isinstance(value, Mapping) else place
            yield from _numbers(value, (*path, str(name)))
    elif isinstance(node, int | float) and not isinstance(node, bool):
        yield path, float(node)


def _told(value: object) -> str:
    return "none" if value is None else str(value)


def _short(value: float) -> str:
    if abs(value) >= 1e7:  # noqa: PLR2004
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"  # noqa: PLR2004
