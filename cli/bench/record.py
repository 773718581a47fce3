"""What a benchmark leaves behind: one JSON file of every figure, and a comparison with an earlier one.

A command begins its Record before it measures anything, so that a wrong file costs no minutes, and ends it with its
figures.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cli.bench.compare import Change, changes, check_comparable, read, show_changes
from cli.bench.machine import machine
from cli.errors import OutputError, WrongUse

SCHEMA = 1
"""Counted up when the meaning of a figure changes, so that old files are not compared with new ones."""

JsonFile = Annotated[Path | None, typer.Option("--json", help="Write every figure to this file.")]
CompareFile = Annotated[
    Path | None,
    typer.Option("--compare", help="Show an earlier --json file of this setting beside the new figures."),
]
FailAbove = Annotated[
    float | None,
    typer.Option(min=1.0, help="With --compare: end with 1 where a figure got so many times as bad, such as 1.25."),
]

_OUTPUTS = frozenset({"json_file", "compare", "fail_above", "plot"})
_NO_SETTING = frozenset({"turns"})
"""It makes figures steadier, not others."""
_SECRET = frozenset({"database_url"})


@dataclass(frozen=True)
class Record:
    """One run of one benchmark."""

    header: dict[str, Any]
    """Schema, name and command of the benchmark, machine and setting."""
    json_file: Path | None
    old_file: Path | None
    old: dict[str, Any] | None
    fail_above: float | None

    @classmethod
    def begin(
        cls,
        context: typer.Context,
        json_file: Path | None,
        compare: Path | None,
        fail_above: float | None,
        resolved: Mapping[str, Any] | None = None,
        *,
        device: str = "cpu",
        cases: Iterable[str] = (),
        spread: Iterable[str] = (),
    ) -> "Record":
        """Of the command that runs now.

        `resolved` says what options mean that were left out. `cases` names the settings that are measured one after
        the other, where there are several, and `spread` the options that they come from.

        Raises:
            WrongUse: an old file that is none, or of another benchmark, setting or machine.
            OutputError: there can be no such file.

        """
        if fail_above is not None and compare is None:
            raise WrongUse("--fail-above needs --compare: worse than what?")
        params = {**context.params, **(resolved or {})}
        untold = _OUTPUTS | _NO_SETTING | _SECRET | set(spread)
        header = {
            "schema": SCHEMA,
            "bench": context.info_name,
            "command": _command(context),
            "machine": machine(device),
            "setting": {name: _plain(value) for name, value in params.items() if name not in untold},
        }
        old = None
        if compare is not None:
            old = read(compare)
            named = {"cases": dict.fromkeys(cases)} if cases else {}
            check_comparable(compare, old, header | named)
        if json_file is not None:
            _make_parent(json_file)
        return cls(header, json_file, compare, old, fail_above)

    def end(self, figures: dict[str, Any]) -> None:
        """Write and compare.

        Raises:
            OutputError: the file cannot be written.
            typer.Exit: with 1, where a figure got worse than `fail_above` allows.

        """
        record = json.loads(json.dumps(self.header | figures))
        if self.json_file is not None:
            try:
                self.json_file.write_text(json.dumps(record, indent=2) + "\n")
            except OSError as error:
                raise OutputError(f"{self.json_file} cannot be written: {error.strerror}") from None
        if self.old is None or self.old_file is None:
            return
        found = changes(self.old, record)
        show_changes(Console(soft_wrap=True), self.old_file, self.old, found)
        failed = [change for change in found if _fails(change, self.fail_above)]
        for change in failed:
            typer.echo(f"{change.case} {change.name} got {change.worse:.2f} times as bad".strip(), err=True)
        if failed:
            raise typer.Exit(1)


def _fails(change: Change, above: float | None) -> bool:
    return above is not None and change.worse is not None and change.worse > above


def _command(context: typer.Context) -> str:
    """As it can be typed again, without where its output went."""
    words = ["car bench", context.info_name or ""]
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name in _OUTPUTS or source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[name]
        if isinstance(value, bool):
            words.append(parameter.opts[0] if value else (parameter.secondary_opts or parameter.opts)[0])
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            words += [parameter.opts[0], "…" if name in _SECRET else str(_plain(one))]
    return " ".join(words)


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever an option holds
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _make_parent(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{file} cannot be written: {error.strerror}") from None
