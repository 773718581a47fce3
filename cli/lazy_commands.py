"""Commands that are imported when they run, so that `car --help` and `car --version` import none of them."""

from collections.abc import Iterator, MutableMapping
from copy import copy
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True)
class CommandEntry:
    """A command or group of `car`: its line in the help, and where it is defined."""

    help: str
    module: str
    attribute: str = "app"
    """A typer application for a group, a function for a command."""
    panel: str | None = None


class LazyCommands(MutableMapping[str, Any]):
    """Commands by name; each is imported when it is first read."""

    def __init__(self, entries: dict[str, CommandEntry]) -> None:
        self.entries = entries
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - typer does not export the type of its commands
        if name not in self._loaded:
            self._loaded[name] = _load(name, self.entries[name])
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:  # noqa: ANN401 - as above
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self.entries[name]
        self._loaded.pop(name, None)

    def __contains__(self, name: object) -> bool:
        return name in self.entries or name in self._loaded

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


class LazyGroup(TyperGroup):
    """A group whose help lists its entries without importing them."""

    entries: dict[str, CommandEntry]

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401 - typer's
        super().__init__(**attributes)
        self.commands = LazyCommands(self.entries)

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - typer does not export these types
        listing = copy(self)
        listing.commands = {
            name: TyperCommand(name, help=entry.help, rich_help_panel=entry.panel)
            for name, entry in self.entries.items()
        }
        TyperGroup.format_help(listing, ctx, formatter)


def _load(name: str, entry: CommandEntry) -> Any:  # noqa: ANN401 - as above
    definition = getattr(import_module(entry.module), entry.attribute)
    if isinstance(definition, typer.Typer):
        group = typer.main.get_group(definition)
        group.name = name
        return group
    single = typer.Typer(add_completion=False)
    single.command(name)(definition)
    return typer.main.get_command(single)
