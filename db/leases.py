"""Leases: a row belongs to one worker for a while. One set of statements serves every table with LeaseColumns.

available ──claim──> leased ──change_owned──> as the table's owner defines
    ^                  │ ├──release──> available, as if never claimed
    ├──fail (waits)────┘ └──fail, too often or permanently──> given up
    └──(the lease expires: the next claim takes the row, or `reclaim`)

The attempt is counted before the work, so a row that kills its workers is counted too. Fencing: every write of a worker
names the worker and its attempt, so a late write changes nothing. Rows are locked in one order, so that a heartbeat, a
commit and a cancel wait for each other and do not deadlock.
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
"""Exponential backoff after retryable failures: 5 s, 15 s, 45 s, 2 min, 5 min, with a jitter of a quarter."""
LET_GO = "worker = NULL, lease_expires_at = NULL"
"""SQL: no worker holds the row."""
RESET = f"failure_count = 0, available_at = now(), {LET_GO}"
"""SQL: the row can be claimed at once, and earlier failures do not count."""
EXTEND = "lease_expires_at = now() + make_interval(secs => :lease)"
"""SQL: the lease runs from now."""

_BACKOFF = """
    now() + greatest(
        least(CAST(:longest AS interval), CAST(:first AS interval) * power(3, least(failure_count, 10)))
            * (0.75 + 0.5 * random()),
        CAST(:at_least AS interval)
    )
"""
_RELEASE = f"""
    attempt = attempt - 1, {LET_GO},
    available_at = CASE WHEN :seconds > 0 THEN now() + make_interval(secs => :seconds) ELSE available_at END
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedTable:
    """A table with LeaseColumns. All fields but `name` and `key_type` are SQL."""

    name: str
    key_type: str = "bigint"
    due: str
    """Which rows have work; the lease columns say whether they are available now."""
    held: str
    """Which rows a worker may hold."""
    order: str = "id"
    """Columns that give the order in which several rows are locked."""
    lock: str = "FOR UPDATE"
    on_claim: str = ""
    on_release: str = ""
    may_retry: str = "true"
    """Whether another attempt follows one more retryable failure."""
    on_failure: str
    """Changes beside those of the lease. `{again}` says whether another attempt follows; `owned.code` and
    `owned.detail` hold the error.
    """

    @property
    def is_free(self) -> str:
        """SQL: no worker holds the row."""
        return f"({self.name}.lease_expires_at IS NULL OR {self.name}.lease_expires_at < now())"

    @property
    def is_available(self) -> str:
        """SQL: the row can be claimed now."""
        return f"{self.due} AND {self.name}.available_at <= now() AND {self.is_free}"

    @property
    def order_by(self) -> str:
        """SQL: the order in which several rows are locked."""
        return "ORDER BY " + ", ".join(f"{self.name}.{column.strip()}" for column in self.order.split(","))


Columns = Mapping[tuple[str, str], Sequence[Any]]
"""One value for each claim, by name and SQL type."""


class Claim(Protocol):
    """The row and the attempt that identify a claim."""

    @property
    def id(self) -> Any: ...  # noqa: ANN401 - a number or a UUID

    @property
    def attempt(self) -> int: ...


def choose(table: LeasedTable, order: str, *, where: str = "true") -> str:
    """Return SQL of `chosen` for `claim_statement`: up to :limit available rows that no other claim has locked."""
    return f"""
        chosen AS (
            SELECT id FROM {table.name} WHERE {table.is_available} AND {where}
            ORDER BY {order} LIMIT :limit {table.lock} SKIP LOCKED
        )
    """  # noqa: S608 - made of constants of this code, as everywhere in this file


def claim_statement(
    table: LeasedTable, chosen: str, returning: str, *, tables: Mapping[str, str] | None = None, also: str = ""
) -> TextClause:
    """Return the statement that `claim` runs. `chosen` is a common table expression with the ids, `tables` maps joined
    tables to their join conditions, `also` holds changes beside those of the lease.
    """
    joined = tables or {}
    take = f"attempt = {table.name}.attempt + 1, worker = :worker, {EXTEND}"
    return text(f"""
        WITH {chosen}
        UPDATE {table.name} SET {", ".join(filter(None, [take, table.on_claim, also]))}
        FROM {", ".join(["chosen", *joined])}
        WHERE {" AND ".join([f"{table.name}.id = chosen.id", *joined.values()])}
        RETURNING {returning}
    """)  # noqa: S608


def claim(session: Session, statement: TextClause, worker: str, lease: timedelta, **values: object) -> Sequence[Any]:
    """Run a `claim_statement` and return its rows, which belong to this worker until the lease expires."""
    return session.execute(statement, {"worker": worker, "lease": lease.total_seconds()} | values).all()


def change_owned(
    session: Session,
    table: LeasedTable,
    worker: str,
    claims: Collection[Claim],
    change: str,
    columns: Columns | None = None,
    values: Mapping[str, object] | None = None,
) -> set[Any]:
    """Make a change, in SQL, to the claimed rows that this worker still holds, and return their ids. The change reads
    `columns` as `owned.name` and `values` as parameters.
    """
    if not claims:
        return set()
    columns = columns or {}
    parameters = _claim_values(worker, claims) | {f"each_{name}": list(each) for (name, _), each in columns.items()}
    return set(session.scalars(_change(table, change, tuple(columns)), parameters | dict(values or {})))


# The owner of a table binds `table` of the functions below with functools.partial.


def lock_owned(session: Session, worker: str, claims: Collection[Claim], *, table: LeasedTable) -> set[Any]:
    """Lock the claimed rows that this worker still holds until the transaction ends, and return their ids."""
    return set(session.scalars(text(_owned(table, ())), _claim_values(worker, claims))) if claims else set()


def extend(
    session: Session, worker: str, claims: Collection[Claim], lease: timedelta, *, table: LeasedTable
) -> set[Any]:
    """Heartbeat: start the leases anew and return the ids that this worker still holds. Drop the others."""
    return change_owned(session, table, worker, claims, EXTEND, values={"lease": lease.total_seconds()})


def release(
    session: Session, worker: str, claims: Collection[Claim], *, table: LeasedTable, wait: timedelta = timedelta(0)
) -> set[Any]:
    """Hand rows back as if never claimed, available at once or after `wait`; return the ids that were still held."""
    change = ", ".join(filter(None, [_RELEASE, table.on_release]))
    return change_owned(session, table, worker, claims, change, values={"seconds": wait.total_seconds()})


def fail(
    session: Session,
    table: LeasedTable,
    worker: str,
    failures: Sequence[tuple[Claim, str, str, bool]],
    *,
    at_least: timedelta = timedelta(0),
) -> set[Any]:
    """Record failures as claim, error code, detail and whether it is retryable; return the ids that were still held.
    A retryable one becomes available again after a backoff of `at_least` that time, unless the row failed too often.
    """
    change = (
        f"failure_count = failure_count + CAST(owned.retryable AS int), available_at = {_BACKOFF}, {LET_GO}, "
        + table.on_failure.format(again=f"(owned.retryable AND {table.may_retry})")
    )
    columns: Columns = {
        ("code", "text"): [code for _, code, _, _ in failures],
        ("detail", "text"): [storable(detail) for _, _, detail, _ in failures],
        ("retryable", "bool"): [retryable for _, _, _, retryable in failures],
    }
    waits = {"first": FIRST_WAIT, "longest": LONGEST_WAIT, "at_least": at_least}
    return change_owned(session, table, worker, [failure[0] for failure in failures], change, columns, waits)


def reclaim(
    session: Session, table: LeasedTable, change: str, returning: str, *, where: str = "true", **values: object
) -> Sequence[Any]:
    """Take rows with an expired lease from their workers, make a change, in SQL, and return `returning` of each."""
    return session.execute(_reclaim(table, change, returning, where), values).all()


def has_available(session: Session, *, table: LeasedTable, where: str = "true", **values: object) -> bool:
    """Return whether a worker would find a row to claim."""
    available = text(f"SELECT EXISTS (SELECT 1 FROM {table.name} WHERE {table.is_available} AND {where})")  # noqa: S608
    return bool(session.scalar(available, values))


def storable(detail: str) -> str:
    """Return a message that Postgres can hold: no NUL, at most 2,000 characters."""
    return detail.replace("\0", "\\0")[:2000]


@cache
def _owned(table: LeasedTable, columns: tuple[tuple[str, str], ...]) -> str:
    """Return the SELECT that locks the rows which a worker's claims still hold."""
    name = table.name
    claimed = ["id", "attempt", *(column for column, _ in columns)]
    arrays = [f"CAST(:ids AS {table.key_type}[])", "CAST(:attempts AS int[])"]
    arrays += [f"CAST(:each_{column} AS {kind}[])" for column, kind in columns]
    return f"""
        SELECT {", ".join([f"{name}.id", *(f"claimed.{column}" for column, _ in columns)])} FROM {name}
        JOIN unnest({", ".join(arrays)}) AS claimed({", ".join(claimed)})
            ON claimed.id = {name}.id AND claimed.attempt = {name}.attempt
        WHERE {name}.worker = :worker AND {table.held} {table.order_by} {table.lock} OF {name}
    """  # noqa: S608


@cache
def _change(table: LeasedTable, change: str, columns: tuple[tuple[str, str], ...]) -> TextClause:
    return text(f"""
        WITH owned AS ({_owned(table, columns)})
        UPDATE {table.name} SET {change} FROM owned WHERE {table.name}.id = owned.id RETURNING {table.name}.id
    """)  # noqa: S608


@cache
def _reclaim(table: LeasedTable, change: str, returning: str, where: str) -> TextClause:
    return text(f"""
        UPDATE {table.name} SET {change}, {LET_GO} WHERE id IN (
            SELECT id FROM {table.name} WHERE {table.held} AND lease_expires_at < now() AND {where}
            ORDER BY lease_expires_at LIMIT 5000 {table.lock} SKIP LOCKED
        ) RETURNING {returning}
    """)  # noqa: S608


def _claim_values(worker: str, claims: Collection[Claim]) -> dict[str, object]:
    return {
        "worker": worker,
        "ids": [claimed.id for claimed in claims],
        "attempts": [claimed.attempt for claimed in claims],
    }
