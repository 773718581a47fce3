"""Connections and the one commit of this code base."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psycopg
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as NoneFree
from sqlalchemy.orm import Session

from db.errors import DatabaseBusyError, DatabaseUnreachableError, SchemaOutdatedError, SettingsInvalidError

Answer = TypeVar("Answer")

_CONNECT_SECONDS = 5
_STATEMENT_MS = 60_000
_AWAY = ("08", "28", "3D", "53", "57P")
"""Classes of PostgreSQL's errors: no connection, no login, no such database, no room, a server that stops."""
_BUSY = {
    "40001": "two transactions stood in each other's way",
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
    """Connections to a `postgresql://` address, made when first used; with `ping` a stale one is replaced unseen, for
    one round trip each time. Whoever finds all of the `pool` in use waits for `pool_seconds` at most.

    Raises:
        SettingsInvalidError: the address is none of PostgreSQL.

    """
    try:
        url = make_url(database_url)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        raise SettingsInvalidError(
            "DATABASE_URL is no address; it looks like postgresql://user:password@host:5432/name"
        ) from None
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise SettingsInvalidError(f"DATABASE_URL is of {url.get_backend_name()}, and only PostgreSQL will do")
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=pool,
        max_overflow=0,
        hide_parameters=True,  # in errors, hence in logs: addresses with signatures are among them
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
    """One transaction: committed when the block ends, rolled back when it raises. One that is not `durable` does not
    wait for the disk: a crash of the server may undo it, as it may a claim or a heartbeat without harm.

    Raises:
        DatabaseUnreachableError: no server, no such database, a wrong password, or the connection broke.
        DatabaseBusyError: it may do when tried again.
        SchemaOutdatedError: a table or column of this code is not there.

    """
    with translate_errors(engine), Session(engine, expire_on_commit=False) as session:
        if not durable:
            session.execute(text("SET LOCAL synchronous_commit = off"))
        yield session
        session.commit()


def read_only(engine: Engine, question: Callable[[Session], Answer]) -> Answer:
    """The answer to a question that changes nothing, without the round trips of a transaction: each of its queries sees
    what is committed by then. Asked once more where a connection proved stale, so an engine without `ping` will do.

    Raises:
        DatabaseUnreachableError, DatabaseBusyError, SchemaOutdatedError: as in `transaction`.

    """
    each = engine.execution_options(isolation_level="AUTOCOMMIT")
    try:
        with translate_errors(engine), Session(each, expire_on_commit=False) as session:
            return question(session)
    except DatabaseUnreachableError as error:
        if not getattr(error.__cause__, "connection_invalidated", False):
            raise
    with translate_errors(engine), Session(each, expire_on_commit=False) as session:
        return question(session)


@contextmanager
def translate_errors(engine: Engine) -> Iterator[None]:
    """Errors of the connection and of missing tables, as errors a user can act on."""
    try:
        yield
    except NoneFree as error:
        raise DatabaseBusyError("all connections of this process are in use; raise CAR_DATABASE_POOL") from error
    except OperationalError as error:
        if told := _operational(engine, error.orig):
            raise told from error
        raise
    except psycopg.OperationalError as error:  # of a COPY, which goes past SQLAlchemy
        if told := _operational(engine, error):
            raise told from error
        raise
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", "") in ("42P01", "42703"):
            raise SchemaOutdatedError("the database has not the tables of this version; run `car migrate`") from error
        raise
    except DBAPIError as error:
        if error.connection_invalidated:
            raise DatabaseUnreachableError(_unreachable(engine, error.orig)) from error
        raise


def _operational(engine: Engine, error: BaseException | None) -> DatabaseUnreachableError | None:
    """None for what is a fault of this code, and not of the connection."""
    state = getattr(error, "sqlstate", None)
    if state in _BUSY:
        return DatabaseBusyError(f"PostgreSQL at {_place(engine)}: {_BUSY[state]}; try again")
    # None: no word from the server.
    if state is None or state.startswith(_AWAY):
        return DatabaseUnreachableError(_unreachable(engine, error))
    return None


def _unreachable(engine: Engine, error: BaseException | None) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # libpq's last sentence: "connection to server at … failed: FATAL:  database "x" does not exist".
    reason = lines[0].rpartition("failed: ")[2].removeprefix("FATAL:").strip()
    hint = "check DATABASE_URL, and that it runs"
    if "password" in reason or "role" in reason:
        hint = "check the name and password in DATABASE_URL"
    elif "does not exist" in reason:
        hint = "check the database's name in DATABASE_URL, or make it"
    return f"PostgreSQL at {_place(engine)} does not answer ({reason}); {hint}"


def _place(engine: Engine) -> str:
    url = engine.url
    return f"{url.host or url.query.get('host', 'this machine')}:{url.port or 5432}/{url.database or ''}"
