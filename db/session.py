"""Database connections, transactions (the only commit of this code base) and readable errors."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psycopg
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from db.errors import DatabaseBusyError, DatabaseUnreachableError, SchemaOutdatedError, SettingsInvalidError

Result = TypeVar("Result")

_CONNECT_SECONDS = 5
_STATEMENT_MS = 60_000
_AWAY = ("08", "28", "3D", "53", "57P")
"""PostgreSQL error classes: no connection, no login, no such database, no resources, shutdown."""
_BUSY = {
    "40001": "two transactions conflicted",
    "40P01": "two transactions waited for each other",
    "55P03": "a lock was not free in time",
    "57014": "a statement took too long",
}


def make_engine(
    database_url: str,
    *,
    pool: int = 10,
    pool_seconds: float = 30.0,
    statement_ms: int = _STATEMENT_MS,
    ping: bool = True,
) -> Engine:
    """Return an engine for a `postgresql://` URL, which connects on first use; another URL raises SettingsInvalidError.
    `ping` replaces stale connections, for one round trip each time. When all `pool` connections are in use, the next
    user waits up to `pool_seconds`.
    """
    try:
        url = make_url(database_url)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        raise SettingsInvalidError(
            "DATABASE_URL is not a URL; it must look like postgresql://user:password@host:5432/name"
        ) from None
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise SettingsInvalidError(f"DATABASE_URL names {url.get_backend_name()}; only PostgreSQL is supported")
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=pool,
        max_overflow=0,
        hide_parameters=True,  # errors are logged, and some parameters are signed URLs
        pool_pre_ping=ping,
        pool_timeout=pool_seconds,
        connect_args={
            "connect_timeout": _CONNECT_SECONDS,
            "application_name": "car",
            "options": f"-c statement_timeout={statement_ms} -c timezone=UTC",
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
        },
    )


@contextmanager
def transaction(engine: Engine, *, durable: bool = True) -> Iterator[Session]:
    """Run a transaction: commit when the block ends, roll back when it raises. Without `durable` the commit does not
    wait for the disk; a server crash may undo it, which is harmless for claims and heartbeats.

    Raises:
        DatabaseUnreachableError: no server, no such database, a wrong password, or the connection broke.
        DatabaseBusyError: try again.
        SchemaOutdatedError: a table or column of this code is missing.

    """
    with translate_errors(engine), Session(engine, expire_on_commit=False) as session:
        if not durable:
            session.execute(text("SET LOCAL synchronous_commit = off"))
        yield session
        session.commit()


def read_only(engine: Engine, query: Callable[[Session], Result]) -> Result:
    """Run a query that changes nothing without the round trips of a transaction. It is repeated once if its connection
    was stale, so an engine without `ping` is enough. Raises the errors of `transaction`.
    """

    def run() -> Result:
        autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        with translate_errors(engine), Session(autocommit, expire_on_commit=False) as session:
            return query(session)

    try:
        return run()
    except DatabaseUnreachableError as error:
        if not getattr(error.__cause__, "connection_invalidated", False):
            raise
    return run()


@contextmanager
def translate_errors(engine: Engine) -> Iterator[None]:
    """Raise errors of the connection and of missing tables as errors that a user can act on."""
    try:
        yield
    except PoolTimeoutError as error:
        raise DatabaseBusyError("all connections of this process are in use; raise CAR_DATABASE_POOL") from error
    except (OperationalError, psycopg.OperationalError) as error:  # psycopg's: of a COPY, which bypasses SQLAlchemy
        if translated := _operational(engine, error.orig if isinstance(error, OperationalError) else error):
            raise translated from error
        raise
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", "") in ("42P01", "42703"):
            raise SchemaOutdatedError("the database lacks tables of this version; run `car migrate`") from error
        raise
    except DBAPIError as error:
        if error.connection_invalidated:
            raise DatabaseUnreachableError(_unreachable(engine, error.orig)) from error
        raise


def _operational(engine: Engine, error: BaseException | None) -> DatabaseUnreachableError | None:
    """Return None for an error of this code rather than of the connection."""
    state = getattr(error, "sqlstate", None)  # None: the server did not answer
    if state in _BUSY:
        return DatabaseBusyError(f"PostgreSQL at {_address(engine)}: {_BUSY[state]}; try again")
    if state is None or state.startswith(_AWAY):
        return DatabaseUnreachableError(_unreachable(engine, error))
    return None


def _unreachable(engine: Engine, error: BaseException | None) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # libpq's last sentence: "connection to server at … failed: FATAL:  database "x" does not exist".
    reason = lines[0].rpartition("failed: ")[2].removeprefix("FATAL:").strip()
    hint = "check DATABASE_URL and whether it is running"
    if "password" in reason or "role" in reason:
        hint = "check the name and password in DATABASE_URL"
    elif "does not exist" in reason:
        hint = "check the database's name in DATABASE_URL, or create it"
    return f"PostgreSQL at {_address(engine)} does not answer ({reason}); {hint}"


def _address(engine: Engine) -> str:
    url = engine.url
    return f"{url.host or url.query.get('host', 'this machine')}:{url.port or 5432}/{url.database or ''}"
