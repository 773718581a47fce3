"""`car env`: how to reach the engines of a folder from a shell."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

DataDirOption = Annotated[Path, typer.Option("--data-dir", help="Where the embedded engines keep their data.")]


def env(data_dir: DataDirOption = Path(".car")) -> None:
    """Print `export NAME=value` lines for the engines of a folder: eval "$(car env)"."""
    from cli.embedded.data_dir import is_held, read_notes

    notes = read_notes(data_dir)
    values: dict[str, str] = notes.get("environment", {}) | notes.get("api", {})
    for name, value in values.items():
        typer.echo(f"export {name}={shlex.quote(value)}")
    if not is_held(data_dir):
        typer.echo(f"# nothing runs on {data_dir} now; start it with `car up`", err=True)
