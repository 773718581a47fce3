"""Schema versions: migrate a database to this code's revision, and check its revision."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from db.errors import DatabaseError, SchemaOutdatedError
from db.session import translate_errors

_LOCK = 0x636172
"""Advisory lock: one process migrates at a time."""
_LOCK_NOT_AVAILABLE = "55P03"

RETIRED = frozenset({"63be0e546f33", "69ef2b51929d", "9e41c7d03b58", "c2a5f08e7b16"})
"""Revisions from before the first release, from which no migration leads to this code's tables."""


class MigrationBlockedError(DatabaseError):
    code = "migration_blocked"
    retryable = True


def migrate(engine: Engine, revision: str = "head") -> tuple[str | None, str | None]:
    """Upgrade to `revision` and return the revisions before and after. Several processes may run it at once.

    Raises:
        DatabaseUnreachableError: see db.session.
        SchemaOutdatedError: no migration leads from the database's revision to this code's.
        MigrationBlockedError: a long transaction locks a table; nothing was changed.

    """
    return _move(engine, lambda config: command.upgrade(config, revision))


def current(engine: Engine) -> str | None:
    """Return the database's revision; None before the first migration."""
    with translate_errors(engine), engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


@cache
def head() -> str:
    """Return the revision of this code."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def require_current(engine: Engine) -> None:
    """Raise SchemaOutdatedError, with what to do, unless the database is at this code's revision."""
    revision = current(engine)
    _refuse_retired(revision)
    if revision != head():
        raise SchemaOutdatedError(
            f"the database is at revision {revision or 'none'} and this version needs {head()}; run `car migrate`"
        )


def _refuse_retired(revision: str | None) -> None:
    if revision in RETIRED:
        raise SchemaOutdatedError(
            f"the database is at revision {revision}, from before the first release, which cannot be migrated; delete "
            "this database (with embedded engines: the folder `postgres` in the data folder), keep the bucket, and run "
            "`car migrate` on an empty one"
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("migrations")).replace("%", "%%"))
    return config


def _move(engine: Engine, move: Callable[[Config], None]) -> tuple[str | None, str | None]:
    with translate_errors(engine), _unlimited_connection(engine) as guard, _unlimited_connection(engine) as connection:
        with guard.begin():
            guard.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _LOCK})  # until the connection is closed
        before = current(engine)
        _refuse_retired(before)
        config = _config()
        config.attributes["connection"] = connection
        try:
            move(config)
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", "") == _LOCK_NOT_AVAILABLE:
                raise MigrationBlockedError(
                    "another transaction locks a table that the migration needs; try again when it has ended"
                ) from error
            raise
        return before, current(engine)


@contextmanager
def _unlimited_connection(engine: Engine) -> Iterator[Connection]:
    """Open a connection outside the pool without a statement timeout: building an index of millions of rows takes
    longer than any request may.
    """
    with engine.connect() as connection:
        connection.detach()
        with connection.begin():
            connection.execute(text("SET statement_timeout = 0"))
        yield connection
