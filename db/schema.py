"""The tables' versions: bring a database up to this code's, and say whether it is there."""

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
"""Advisory lock: two processes that migrate at once would trip over each other."""
_LOCK_NOT_AVAILABLE = "55P03"

RETIRED = frozenset({"63be0e546f33", "69ef2b51929d", "9e41c7d03b58", "c2a5f08e7b16"})
"""Revisions of before the first release: no migration leads from their tables to those of this code."""


class MigrationBlockedError(DatabaseError):
    code = "migration_blocked"
    retryable = True


def migrate(engine: Engine, revision: str = "head") -> tuple[str | None, str | None]:
    """Upgrade to `revision`; the revisions before and after. Safe to run from several processes at once.

    Raises:
        DatabaseUnreachableError: see db.session.
        SchemaOutdatedError: no migration leads from its revision to this code's.
        MigrationBlockedError: a long transaction holds a table; nothing was changed.

    """
    return _move(engine, lambda config: command.upgrade(config, revision))


def downgrade(engine: Engine, revision: str) -> tuple[str | None, str | None]:
    """Back to an older revision; what newer tables held is lost."""
    return _move(engine, lambda config: command.downgrade(config, revision))


def current(engine: Engine) -> str | None:
    """The database's revision; none before the first migration."""
    with translate_errors(engine), engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


@cache
def head() -> str:
    """The revision of this code."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def require_current(engine: Engine) -> None:
    """Raises: SchemaOutdatedError, with what to do."""
    found = current(engine)
    _refuse_retired(found)
    if found != head():
        raise SchemaOutdatedError(
            f"the database is at revision {found or 'none'} and this version needs {head()}; run `car migrate`"
        )


def _refuse_retired(revision: str | None) -> None:
    if revision in RETIRED:
        raise SchemaOutdatedError(
            f"the database is at revision {revision}, of before the first release, which cannot be migrated; delete "
            "this database (with embedded engines: the folder `postgres` in the data folder), keep the bucket, and run "
            "`car migrate` on an empty one"
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("migrations")).replace("%", "%%"))
    return config


def _move(engine: Engine, move: Callable[[Config], None]) -> tuple[str | None, str | None]:
    with translate_errors(engine), _patient(engine) as guard, _patient(engine) as connection:
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
                    "another transaction holds a table that the migration needs; try again when it has ended"
                ) from error
            raise
        return before, current(engine)


@contextmanager
def _patient(engine: Engine) -> Iterator[Connection]:
    """A connection without a limit of time, which does not go back to the pool: an index of millions of rows is built
    for longer than any request may take.
    """
    with engine.connect() as connection:
        connection.detach()
        with connection.begin():
            connection.execute(text("SET statement_timeout = 0"))
        yield connection
