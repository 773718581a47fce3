"""Leases: a row belongs to one worker for a while. One set of statements serves every table that has LeaseColumns.

available ──claim──> leased ──change_owned──> whatever the table's owner says
    ^                  │ ├──release──> available, as if never claimed
    ├──fail (waits)────┘ └──fail, too often or for good──> given up
    └──(the lease expires: the next claim takes it, or `reclaim`)

The attempt is counted before the work, so that a row which kills its workers is counted too. Every write of a worker is
fenced by its name and its attempt: one that comes late changes nothing. Rows are locked in one order, so that a
heartbeat, a commit and a cancel wait for each other and do not deadlock.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, Protocol

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

FIRST_WAIT = timedelta(seconds=5)
LONGEST_WAIT = timedelta(minutes=5)
"""Back-off after failures that may pass: threefold from the first, up to this: 5 s, 15 s, 45 s, 2 min, 5 min. A spread
of a quarter keeps a thousand rows from coming back in one second.
"""
LET_GO = "worker = NULL, lease_expires_at = NULL"
"""SQL: the row is no worker's."""
RESET = f"failure_count = 0, available_at = now(), {LET_GO}"
"""SQL: the row can be claimed at once, and no failure of before counts."""

_BACKOFF = """
    now() + greatest(
        least(CAST(:longest AS interval), CAST(:first AS interval) * power(3, least(failure_count, 10)))
            * (0.75 + 0.5 * random()),
        CAST(:at_least AS interval)
    )
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedTable:
    """A table with LeaseColumns. All fields but `name` and `key_type` are SQL."""

    name: str
    key_type: str = "bigint"
    due: str
    """Rows to work on; whether they are available now is seen by the columns of the lease."""
    held: str
    """Rows that a worker may hold."""
    order: str = "id"
    """Columns in whose order several rows are locked."""
    lock: str = "FOR UPDATE"
    on_claim: str = ""
    on_release: str = ""
    may_retry: str = "true"
    """Whether one more failure that may pass is followed by another attempt."""
    on_failure: str
    """Changes beside those of the lease; `{again}` says whether another attempt follows, `mine.code` and `mine.detail`
    why this one failed.
    """

    @property
    def is_free(self) -> str:
        """SQL: no worker holds it."""
        return f"({self.name}.lease_expires_at IS NULL OR {self.name}.lease_expires_at < now())"

    @property
    def is_available(self) -> str:
        """SQL: it can be claimed now."""
        return f"{self.due} AND {self.name}.available_at <= now() AND {self.is_free}"

    @property
    def order_by(self) -> str:
        """SQL: the order in which several rows are locked."""
        return "ORDER BY " + ", ".join(f"{self.name}.{column.strip()}" for column in self.order.split(","))


Columns = Mapping[tuple[str, str], Sequence[Any]]
"""Values for each of several claims, by name and SQL type."""


class Claim(Protocol):
    """What a claim is known by: the row and the attempt."""

    @property
    def id(self) -> Any: ...  # noqa: ANN401 - a number or a UUID

    @property
    def attempt(self) -> int: ...


def choose(table: LeasedTable, order: str, *, where: str = "true") -> str:
    """SQL of `chosen` for `claim_statement`: up to :limit available rows that nobody else is claiming."""
    return f"""
        chosen AS (
            SELECT id FROM {table.name} WHERE {table.is_available} AND {where}
            ORDER BY {order} LIMIT :limit {table.lock} SKIP LOCKED
        )
    """  # noqa: S608 - made of constants of this code, as everywhere in this file


def claim_statement(
    table: LeasedTable, chosen: str, returning: str, *, tables: Mapping[str, str] | None = None, also: str = ""
) -> TextClause:
    """The statement of a claim, for `claim`. `chosen` is a common table expression with the ids, `tables` are others to
    return columns of, with how they are joined, `also` are changes beside those of the lease.
    """
    joined = tables or {}
    changes = ", ".join(filter(None, [_TAKE.format(name=table.name), table.on_claim, also]))
    return text(f"""
        WITH {chosen}
        UPDATE {table.name} SET {changes} FROM {", ".join(["chosen", *joined])}
        WHERE {" AND ".join([f"{table.name}.id = chosen.id", *joined.values()])}
        RETURNING {returning}
    """)  # noqa: S608


_TAKE = "attempt = {name}.attempt + 1, worker = :worker, lease_expires_at = now() + make_interval(secs => :lease)"


def claim(session: Session, statement: TextClause, worker: str, lease: timedelta, **values: object) -> Sequence[Any]:
    """Rows of a `claim_statement`: from now on this worker's until the lease expires."""
    given = {"worker": worker, "lease": lease.total_seconds()} | values
    return session.execute(statement, given).all()


def change_owned(
    session: Session,
    table: LeasedTable,
    worker: str,
    claims: Collection[Claim],
    change: str,
    columns: Columns | None = None,
    values: Mapping[str, object] | None = None,
) -> set[Any]:
    """Make a change, in SQL, to those of the claimed rows that are still this worker's attempt; their ids. `columns`
    have a value for each claim: by name and SQL type, as `mine.name` in the change; `values` are parameters of it.
    """
    if not claims:
        return set()
    each = columns or {}
    given = {f"each_{name}": list(column) for (name, _), column in each.items()} | _mine(worker, claims)
    return set(session.scalars(_change(table, change, tuple(each)), given | dict(values or {})))


def lock_owned(session: Session, table: LeasedTable, worker: str, claims: Collection[Claim]) -> set[Any]:
    """Ids of the claimed rows that are still this worker's attempt, locked until the transaction ends."""
    return set(session.scalars(_lock(table), _mine(worker, claims))) if claims else set()


def extend(session: Session, table: LeasedTable, worker: str, claims: Collection[Claim], lease: timedelta) -> set[Any]:
    """The heartbeat: ids whose lease now runs from here. The others are not this worker's any more: drop them."""
    return change_owned(session, table, worker, claims, EXTEND, values={"lease": lease.total_seconds()})


EXTEND = "lease_expires_at = now() + make_interval(secs => :lease)"
"""SQL: the lease runs from now."""


def release(
    session: Session, table: LeasedTable, worker: str, claims: Collection[Claim], *, wait: timedelta = timedelta(0)
) -> set[Any]:
    """Hand rows back as if never claimed, available at once or after a wait; ids of those that were still ours."""
    change = (
        f"attempt = attempt - 1, {LET_GO}, "
        "available_at = CASE WHEN :seconds > 0 THEN now() + make_interval(secs => :seconds) ELSE available_at END"
    )
    changes = ", ".join(filter(None, [change, table.on_release]))
    return change_owned(session, table, worker, claims, changes, values={"seconds": wait.total_seconds()})


def fail(
    session: Session,
    table: LeasedTable,
    worker: str,
    claims: Collection[Claim],
    *,
    codes: Sequence[str],
    details: Sequence[str],
    retryable: Sequence[bool],
    at_least: timedelta = timedelta(0),
) -> set[Any]:
    """Let rows go after errors; ids of those that were still ours. What may pass by itself is available again after a
    wait that grows with each failure (see FIRST_WAIT) and is `at_least` so long, unless it failed too often.
    """
    change = (
        f"failure_count = failure_count + CAST(mine.retryable AS int), available_at = {_BACKOFF}, {LET_GO}, "
        + table.on_failure.format(again=f"(mine.retryable AND {table.may_retry})")
    )
    columns: Columns = {
        ("code", "text"): codes,
        ("detail", "text"): [storable(one) for one in details],
        ("retryable", "bool"): retryable,
    }
    waits = {"first": FIRST_WAIT, "longest": LONGEST_WAIT, "at_least": at_least}
    return change_owned(session, table, worker, claims, change, columns, waits)


def reclaim(
    session: Session, table: LeasedTable, change: str, returning: str, *, where: str = "true", **values: object
) -> Sequence[Any]:
    """Make a change, in SQL, to rows whose lease has expired, and take them from their silent workers; `returning` of
    each.
    """
    return session.execute(_reclaim(table, change, returning, where), values).all()


def has_available(session: Session, table: LeasedTable, *, where: str = "true", **values: object) -> bool:
    """Whether a worker would find something to claim."""
    return bool(session.scalar(_available(table, where), values))


def storable(detail: str) -> str:
    """A message that Postgres can hold and people read: no NUL, at most 2,000 characters."""
    return detail.replace("\0", "\\0")[:2000]


@cache
def _owned(table: LeasedTable, columns: tuple[tuple[str, str], ...]) -> str:
    name = table.name
    owned = ["id", "attempt", *(column for column, _ in columns)]
    arrays = [f"CAST(:ids AS {table.key_type}[])", "CAST(:attempts AS int[])"]
    arrays += [f"CAST(:each_{column} AS {kind}[])" for column, kind in columns]
    return f"""
        SELECT {", ".join([f"{name}.id", *(f"owned.{column}" for column, _ in columns)])} FROM {name}
        JOIN unnest({", ".join(arrays)}) AS owned({", ".join(owned)})
            ON owned.id = {name}.id AND owned.attempt = {name}.attempt
        WHERE {name}.worker = :worker AND {table.held} {table.order_by} {table.lock} OF {name}
    """  # noqa: S608


@cache
def _lock(table: LeasedTable) -> TextClause:
    return text(_owned(table, ()))


@cache
def _change(table: LeasedTable, change: str, columns: tuple[tuple[str, str], ...]) -> TextClause:
    name = table.name
    return text(f"""
        WITH mine AS ({_owned(table, columns)})
        UPDATE {name} SET {change} FROM mine WHERE {name}.id = mine.id RETURNING {name}.id
    """)  # noqa: S608


@cache
def _reclaim(table: LeasedTable, change: str, returning: str, where: str) -> TextClause:
    return text(f"""
        UPDATE {table.name} SET {change}, {LET_GO} WHERE id IN (
            SELECT id FROM {table.name} WHERE {table.held} AND lease_expires_at < now() AND {where}
            ORDER BY lease_expires_at LIMIT 5000 {table.lock} SKIP LOCKED
        ) RETURNING {returning}
    """)  # noqa: S608


@cache
def _available(table: LeasedTable, where: str) -> TextClause:
    return text(f"SELECT EXISTS (SELECT 1 FROM {table.name} WHERE {table.is_available} AND {where})")  # noqa: S608


def _mine(worker: str, claims: Collection[Claim]) -> dict[str, object]:
    return {"worker": worker, "ids": [one.id for one in claims], "attempts": [one.attempt for one in claims]}
