"""Listings turn a job's source into items page by page. They are leased like items and resumed where they stopped."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from car.bulk_source import truncate_bytes
from db import leases
from db.leases import storable
from db.models import PRIORITY_ORDER, Priority

MAX_LISTING_FAILURES = 8
"""Retryable errors in a row, without a page in between."""

LISTINGS = leases.LeasedTable(
    name="job",
    key_type="uuid",
    due="listed_at IS NULL AND finished_at IS NULL AND error_code IS NULL AND kind <> 'label_studio'",
    held="listed_at IS NULL AND cancelled_at IS NULL",
    may_retry=f"failure_count + 1 < {MAX_LISTING_FAILURES}",
    # Items that are already listed go on; the job ends with the last of them.
    on_failure="error_code = CASE WHEN {again} THEN NULL ELSE owned.code END, "
    "error_detail = CASE WHEN {again} THEN NULL ELSE owned.detail END, "
    "finished_at = CASE WHEN NOT {again} AND NOT EXISTS (SELECT 1 FROM item WHERE item.job_id = job.id "
    "AND item.state IN ('queued', 'running')) THEN now() END",
)


@dataclass(frozen=True, slots=True)
class Listing:
    """A source that this worker lists until its lease expires."""

    id: UUID
    attempt: int
    priority: int
    source: dict[str, Any]
    cursor: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An image of the source. Another etag means other content under a known URI."""

    uri: str
    etag: str = ""


@dataclass(frozen=True, slots=True)
class RejectedLine:
    """A line of a manifest that names no image."""

    line: str
    code: str
    detail: str


_CLAIM = leases.claim_statement(
    LISTINGS,
    leases.choose(LISTINGS, "priority = 'bulk', id"),
    "job.id, job.attempt, job.priority, job.source, job.cursor",
)


# Ids follow the order of the source, in which items are shown.
_ADD = text("""
    WITH added AS (
        INSERT INTO item (job_id, priority, uri, etag, state, error_code, error_detail, finished_at)
        SELECT :job, :priority, uri, etag, CASE WHEN code IS NULL THEN 'queued' ELSE 'failed' END, code, detail,
            CASE WHEN code IS NOT NULL THEN now() END
        FROM unnest(CAST(:uris AS text[]), CAST(:etags AS text[]), CAST(:codes AS text[]), CAST(:details AS text[]))
            WITH ORDINALITY AS listed(uri, etag, code, detail, position)
        ORDER BY position
        ON CONFLICT DO NOTHING
        RETURNING state
    )
    SELECT count(*) FROM added WHERE state = 'queued'
""")


waiting = partial(leases.has_available, table=LISTINGS)


def claim(session: Session, worker: str, lease: timedelta) -> Listing | None:
    """Claim the oldest job whose source no worker lists, interactive ones first."""
    for row in leases.claim(session, _CLAIM, worker, lease, limit=1):
        return Listing(row.id, row.attempt, PRIORITY_ORDER[Priority(row.priority)], row.source, row.cursor)
    return None


def add(
    session: Session,
    worker: str,
    listing: Listing,
    page: Sequence[ListedObject | RejectedLine],
    *,
    cursor: dict[str, Any],
    lease: timedelta,
) -> int | None:
    """Insert one page as items, store the cursor after it, and return the number of new items. None: this worker lost
    the listing, because it was cancelled or claimed again after its lease.
    """
    change = f"cursor = CAST(:cursor AS jsonb), failure_count = 0, {leases.EXTEND}"
    values = {"cursor": json.dumps(cursor), "lease": lease.total_seconds()}
    if not leases.change_owned(session, LISTINGS, worker, [listing], change, values=values):
        return None
    rows = [_columns(entry) for entry in page]
    names = ("uris", "etags", "codes", "details")
    columns = {name: [row[index] for row in rows] for index, name in enumerate(names)}
    added = session.scalar(_ADD, {"job": listing.id, "priority": listing.priority} | columns)
    return int(added or 0)


def _columns(entry: ListedObject | RejectedLine) -> tuple[str, str, str | None, str | None]:
    """Return uri, etag, error code and detail."""
    if isinstance(entry, ListedObject):
        return entry.uri, entry.etag, None, None
    return truncate_bytes(storable(entry.line)), "", entry.code, storable(entry.detail)


def finish(session: Session, worker: str, listing: Listing) -> bool:
    """Record that the whole source is listed. False: this worker lost the listing."""
    return bool(leases.change_owned(session, LISTINGS, worker, [listing], f"listed_at = now(), {leases.LET_GO}"))


def fail(session: Session, worker: str, listing: Listing, *, code: str, detail: str, retryable: bool) -> None:
    """Record why the source cannot be listed; a retryable error is retried a few times in a row."""
    leases.fail(session, LISTINGS, worker, [(listing, code, detail, retryable)])


def release(session: Session, worker: str, listing: Listing, *, wait: timedelta = timedelta(0)) -> None:
    """Hand the listing back; after `wait`, another worker resumes it at the cursor."""
    leases.release(session, worker, [listing], table=LISTINGS, wait=wait)
