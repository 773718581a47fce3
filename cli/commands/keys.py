"""`car keys`: who may use the API. On the database itself, so that the first key can be made."""

import re
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from cli.errors import UsageError
from cli.options import DATA_DIR, DataFolder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.orm import Session

    from db.models import ApiKey

app = typer.Typer(help="API keys: make, list, revoke.", no_args_is_help=True)

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


class KeyScope(StrEnum):
    """db.api_keys.Scope, which would make `car --help` import the database."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is, or what for.")],
    *,
    scope: Annotated[
        KeyScope, typer.Option(help="read: jobs and results; write: make jobs too; admin: keys too.")
    ] = KeyScope.READ,
    expires: Annotated[
        str | None, typer.Option(metavar="90d", help="It ends after so many hours (h), days (d) or weeks (w).")
    ] = None,
    data_dir: DataFolder = DATA_DIR,
) -> None:
    """Make a key. It is printed once, alone on stdout; nothing can show it again."""
    lifetime = _lifetime(expires) if expires else None
    from db import api_keys

    with _database(data_dir) as session:
        ends = datetime.now(UTC) + lifetime if lifetime else None
        key, secret = api_keys.create(session, name, [api_keys.Scope(scope)], expires_at=ends)
    until = f" until {key.expires_at:%Y-%m-%d %H:%M} UTC" if key.expires_at else ""
    _say(f"key {key.prefix}… for {name!r}, scope {scope}{until}; keep it now, it is not shown again:")
    typer.echo(secret)


@app.command("list")
def list_(*, data_dir: DataFolder = DATA_DIR) -> None:
    """Keys, newest first; never the secrets."""
    from db import api_keys

    with _database(data_dir) as session:
        keys = api_keys.every(session)
    from rich.text import Text

    from cli.output.job_tables import moment, new_table, print_table

    table = new_table("id", "name", "begins", "scope", "state", "made", "last used")
    for key in keys:
        used = moment(key.last_used_at.isoformat()) if key.last_used_at else "never"
        state = Text(_state(key), "" if _state(key) == "good" else "yellow")
        made = moment(key.created_at.isoformat())
        table.add_row(str(key.id), Text(key.name), f"{key.prefix}…", ", ".join(key.scopes), state, made, used)
    print_table(table)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="ID", help="The id, or what the key begins with (car_…).")],
    *,
    data_dir: DataFolder = DATA_DIR,
) -> None:
    """End a key at once."""
    from db import api_keys

    with _database(data_dir) as session:
        revoked = api_keys.revoke(session, _id(key, api_keys.every(session)))
    _say(f"key {revoked.prefix}… of {revoked.name!r} is revoked")


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


def _id(key: str, keys: "list[ApiKey]") -> UUID:
    try:
        return UUID(key)
    except ValueError:
        matches = [one.id for one in keys if one.prefix == key.rstrip("…")[: len(one.prefix)]]
    if len(matches) != 1:
        raise UsageError(f"{key!r} is no key's id, and no key begins so; see `car keys list`")
    return matches[0]


def _lifetime(text: str) -> timedelta:
    match = re.fullmatch(r"([1-9]\d{0,4})\s*([hdw])", text.strip().lower())
    if match is None:
        raise UsageError(f"--expires {text!r} is no time span; it looks like 12h, 90d or 8w")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _state(key: "ApiKey") -> str:
    if key.revoked_at is not None:
        return "revoked"
    ended = key.expires_at is not None and key.expires_at <= datetime.now(UTC)
    return "expired" if ended else "good"


def _say(text: str) -> None:
    """To the person, not to the script that reads stdout."""
    typer.echo(text, err=True)
