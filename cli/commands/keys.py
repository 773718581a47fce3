"""`car keys`: API keys, in the database itself, so that the first one can be created."""

import re
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from cli.errors import UsageError
from cli.options import DATA_DIR, AsJsonLines, DataFolder, FormatOption, OutputFormat, ShowAll, output_format
from cli.output.terminal import echo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.table import Table
    from sqlalchemy.orm import Session

    from db.models import ApiKey

app = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}
KeyScope = StrEnum("KeyScope", ["READ", "WRITE", "ADMIN"])
"""The values of db.api_keys.Scope, which is not imported for `car --help`."""


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Owner or purpose of the key.")],
    *,
    scope: Annotated[
        KeyScope,
        typer.Option(help="read: see jobs and results; write: also create jobs; admin: also manage keys."),
    ] = KeyScope.READ,
    expires: Annotated[
        str | None, typer.Option(metavar="90d", help="Lifetime in hours (h), days (d) or weeks (w). Default: no end.")
    ] = None,
    data_dir: DataFolder = DATA_DIR,
) -> None:
    """Create a key and print it on stdout; it cannot be shown again."""
    lifetime = _lifetime(expires) if expires else None
    from db import api_keys

    with _database(data_dir) as session:
        expires_at = datetime.now(UTC) + lifetime if lifetime else None
        key, secret = api_keys.create(session, name, [api_keys.Scope(scope)], expires_at=expires_at)
    until = f" until {key.expires_at:%Y-%m-%d %H:%M} UTC" if key.expires_at else ""
    echo(f"key {key.prefix}… for {name!r}, scope {scope}{until}; it is not shown again:", err=True)
    echo(secret)


@app.command("list")
def list_(
    *,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of keys.")] = 50,
    show_all: ShowAll = False,
    output: FormatOption = OutputFormat.TABLE,
    as_json: AsJsonLines = False,
    data_dir: DataFolder = DATA_DIR,
) -> None:
    """List keys, newest first, without their secrets."""
    from cli.output.listing import print_list
    from db import api_keys

    with _database(data_dir) as session:
        keys = [_document(key) for key in api_keys.list_all(session)]
    output = output_format(output, as_json)
    print_list(lambda most: keys[:most], _table, output=output, limit=limit, show_all=show_all)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="ID", help="Key id, or the prefix of the key (car_…).")],
    *,
    data_dir: DataFolder = DATA_DIR,
) -> None:
    """Revoke a key; it stops working immediately."""
    from db import api_keys

    with _database(data_dir) as session:
        revoked = api_keys.revoke(session, _id(key, api_keys.list_all(session)))
    echo(f"key {revoked.prefix}… of {revoked.name!r} revoked", err=True)


def _document(key: "ApiKey") -> dict[str, Any]:
    times = {name: getattr(key, name) for name in ("created_at", "last_used_at", "expires_at", "revoked_at")}
    return {
        "id": str(key.id),
        "name": key.name,
        "prefix": key.prefix,
        "scopes": list(key.scopes),
        "state": _state(key),
        **{name: time and time.isoformat() for name, time in times.items()},
    }


def _table(keys: "Iterable[dict[str, Any]]") -> "Table":
    from rich.text import Text

    from cli.output.job_tables import moment, new_table

    table = new_table("id", "name", "prefix", "scope", "state", "created", "last used")
    for key in keys:
        used = moment(key["last_used_at"]) if key["last_used_at"] else "never"
        state = Text(key["state"], "" if key["state"] == "valid" else "yellow")
        scopes, created = ", ".join(key["scopes"]), moment(key["created_at"])
        table.add_row(key["id"], Text(key["name"]), f"{key['prefix']}…", scopes, state, created, used)
    return table


@contextmanager
def _database(data_dir: Path) -> "Iterator[Session]":
    from cli.service.connection_settings import database_url
    from db.session import make_engine, transaction

    engine = make_engine(database_url(data_dir))
    try:
        with transaction(engine) as session:
            yield session
    finally:
        engine.dispose()


def _id(id_or_prefix: str, keys: "list[ApiKey]") -> UUID:
    try:
        return UUID(id_or_prefix)
    except ValueError:
        matches = [key.id for key in keys if key.prefix == id_or_prefix.rstrip("…")[: len(key.prefix)]]
    if len(matches) != 1:
        raise UsageError(f"there is no key with the id or prefix {id_or_prefix!r}; see `car keys list`")
    return matches[0]


def _lifetime(text: str) -> timedelta:
    match = re.fullmatch(r"([1-9]\d{0,4})\s*([hdw])", text.strip().lower())
    if match is None:
        raise UsageError(f"--expires {text!r} is not a duration such as 12h, 90d or 8w")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _state(key: "ApiKey") -> str:
    if key.revoked_at is not None:
        return "revoked"
    expired = key.expires_at is not None and key.expires_at <= datetime.now(UTC)
    return "expired" if expired else "valid"
