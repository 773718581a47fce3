"""The listing of a job's source into items, page by page: leased like an item, and resumed where it stopped."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from car.bulk_source import truncate_bytes
from db import leases
from db.leases import storable
from db.models import PRIORITY_ORDER, Priority

MAX_LISTING_FAILURES = 8
"""Errors that may pass by themselves, with no page in between."""

LISTINGS = leases.LeasedTable(
    name="job",
    key_type="uuid",
    due="listed_at IS NULL AND finished_at IS NULL AND error_code IS NULL AND kind <> 'label_studio'",
    held="listed_at IS NULL AND cancelled_at IS NULL",
    may_retry=f"failure_count + 1 < {MAX_LISTING_FAILURES}",
    # Items that were listed before go on; the job ends with the last of them.
    on_failure="error_code = CASE WHEN {again} THEN NULL ELSE mine.code END, "
    "error_detail = CASE WHEN {again} THEN NULL ELSE mine.detail END, "
    "finished_at = CASE WHEN NOT {again} AND NOT EXISTS (SELECT 1 FROM item WHERE item.job_id = job.id "
    "AND item.state IN ('queued', 'running')) THEN now() END",
)


@dataclass(frozen=True, slots=True)
class Listing:
    """A source that is this worker's to list until its lease expires."""

    id: UUID
    """Of the job."""
    attempt: int
    priority: int
    source: dict[str, Any]
    cursor: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class ListedObject:
    """A picture of the source. The etag tells other content under a known address."""

    uri: str
    etag: str = ""


@dataclass(frozen=True, slots=True)
class RejectedLine:
    """A line of a manifest that names no picture."""

    line: str
    code: str
    detail: str


_CLAIM = leases.claim_statement(
    LISTINGS,
    leases.choose(LISTINGS, "priority = 'bulk', id"),
    "job.id, job.attempt, job.priority, job.source, job.cursor",
)


def claim(session: Session, worker: str, lease: timedelta) -> Listing | None:
    """Claim the oldest job whose source nobody lists, interactive ones first."""
    for row in leases.claim(session, _CLAIM, worker, lease, limit=1):
        return Listing(row.id, row.attempt, PRIORITY_ORDER[Priority(row.priority)], row.source, row.cursor)
    return None


def waiting(session: Session) -> bool:
    """Whether a worker would find a source to list."""
    return leases.has_available(session, LISTINGS)


def add(
    session: Session,
    worker: str,
    listing: Listing,
    page: Sequence[ListedObject | RejectedLine],
    *,
    cursor: dict[str, Any],
    lease: timedelta,
) -> int | None:
    """Insert one page as items and store the cursor after it, in one step; how many items are new. None where the
    listing is not this worker's any more: cancelled, or taken over after its lease.
    """
    change = f"cursor = CAST(:cursor AS jsonb), failure_count = 0, {leases.EXTEND}"
    values = {"cursor": json.dumps(cursor), "lease": lease.total_seconds()}
    if not leases.change_owned(session, LISTINGS, worker, [listing], change, values=values):
        return None
    objects = [one for one in page if isinstance(one, ListedObject)]
    added = session.execute(
        text("""
            INSERT INTO item (job_id, priority, uri, etag)
            SELECT :job, :priority, uri, etag
            FROM unnest(CAST(:uris AS text[]), CAST(:etags AS text[])) AS listed(uri, etag)
            ON CONFLICT DO NOTHING
        """),
        {
            "job": listing.id,
            "priority": listing.priority,
            "uris": [one.uri for one in objects],
            "etags": [one.etag for one in objects],
        },
    )
    if rejected := [one for one in page if isinstance(one, RejectedLine)]:
        _add_rejected(session, listing, rejected)
    return int(getattr(added, "rowcount", 0))


def finish(session: Session, worker: str, listing: Listing) -> bool:
    """The source is listed to its end. False where the listing is not this worker's any more."""
    change = f"listed_at = now(), {leases.LET_GO}"
    return bool(leases.change_owned(session, LISTINGS, worker, [listing], change))


def fail(session: Session, worker: str, listing: Listing, *, code: str, detail: str, retryable: bool) -> None:
    """The source cannot be listed. What may pass by itself is tried again after a wait, a few times where no page comes
    in between.
    """
    leases.fail(session, LISTINGS, worker, [listing], codes=[code], details=[detail], retryable=[retryable])


def release(session: Session, worker: str, listing: Listing) -> None:
    """Leave it to another worker to go on with, from the cursor."""
    leases.release(session, LISTINGS, worker, [listing])


def _add_rejected(session: Session, listing: Listing, rejected: Sequence[RejectedLine]) -> None:
    session.execute(
        text("""
            INSERT INTO item (job_id, priority, uri, state, error_code, error_detail, finished_at)
            SELECT :job, :priority, line, 'failed', code, detail, now()
            FROM unnest(CAST(:lines AS text[]), CAST(:codes AS text[]), CAST(:details AS text[]))
                AS rejected(line, code, detail)
            ON CONFLICT DO NOTHING
        """),
        {
            "job": listing.id,
            "priority": listing.priority,
            "lines": [truncate_bytes(storable(one.line)) for one in rejected],
            "codes": [one.code for one in rejected],
            "details": [storable(one.detail) for one in rejected],
        },
    )
