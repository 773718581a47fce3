"""The listing of a job's source into items, page by page: leased like an item, and resumed where it stopped."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from car.bulk_source import cut
from db.items import FIRST_WAIT, LONGEST_WAIT, storable
from db.models import LANES, Lane

MAX_LISTING_FAILURES = 8


@dataclass(frozen=True, slots=True)
class Listing:
    """A source that is this worker's to list until its lease ends."""

    job_id: UUID
    attempt: int
    lane: int
    source: dict[str, Any]
    cursor: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Found:
    """A picture of the source. The etag tells other content under a known address."""

    uri: str
    etag: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """A line of a manifest that names no picture."""

    line: str
    code: str
    detail: str


def claim(session: Session, worker: str, lease: timedelta) -> Listing | None:
    """The oldest job whose source nobody lists."""
    row = session.execute(
        text("""
            UPDATE job SET lister = :worker, listing_attempt = listing_attempt + 1,
                listing_until = now() + make_interval(secs => :lease)
            WHERE id = (
                SELECT id FROM job
                WHERE listed_at IS NULL AND finished_at IS NULL AND error_code IS NULL AND kind <> 'label_studio'
                    AND (listing_until IS NULL OR listing_until < now())
                ORDER BY lane = 'bulk', id LIMIT 1 FOR UPDATE SKIP LOCKED
            )
            RETURNING id, listing_attempt, lane, source, cursor
        """),
        {"worker": worker, "lease": lease.total_seconds()},
    ).one_or_none()
    if row is None:
        return None
    return Listing(row.id, row.listing_attempt, LANES[Lane(row.lane)], row.source, row.cursor)


def waiting(session: Session) -> bool:
    """Whether a worker would find a source to list."""
    query = text("""
        SELECT EXISTS (
            SELECT 1 FROM job
            WHERE listed_at IS NULL AND finished_at IS NULL AND error_code IS NULL AND kind <> 'label_studio'
                AND (listing_until IS NULL OR listing_until < now())
        )
    """)
    return bool(session.scalar(query))


def add(
    session: Session,
    worker: str,
    listing: Listing,
    found: Sequence[Found | Refused],
    *,
    cursor: dict[str, Any],
    lease: timedelta,
) -> int | None:
    """One page into items, and the cursor after it, in one step; how many items are new. None where the listing is not
    this worker's any more: cancelled, or taken over after its lease.
    """
    if not _still_ours(session, worker, listing):
        return None
    pictures = [one for one in found if isinstance(one, Found)]
    added = session.execute(
        text("""
            INSERT INTO item (job_id, lane, uri, etag)
            SELECT :job, :lane, uri, etag FROM unnest(CAST(:uris AS text[]), CAST(:etags AS text[])) AS found(uri, etag)
            ON CONFLICT DO NOTHING
        """),
        {
            "job": listing.job_id,
            "lane": listing.lane,
            "uris": [one.uri for one in pictures],
            "etags": [one.etag for one in pictures],
        },
    )
    refused = [one for one in found if isinstance(one, Refused)]
    if refused:
        _refuse(session, listing, refused)
    session.execute(
        text(
            "UPDATE job SET cursor = CAST(:cursor AS jsonb), listing_failures = 0, "
            "listing_until = now() + make_interval(secs => :lease) WHERE id = :job"
        ),
        {"cursor": _json(cursor), "lease": lease.total_seconds(), "job": listing.job_id},
    )
    return int(getattr(added, "rowcount", 0))


def finish(session: Session, worker: str, listing: Listing) -> bool:
    """The source is listed to its end. False where the listing is not this worker's any more."""
    if not _still_ours(session, worker, listing):
        return False
    session.execute(
        text("UPDATE job SET listed_at = now(), lister = NULL, listing_until = NULL WHERE id = :job"),
        {"job": listing.job_id},
    )
    return True


def fail(session: Session, worker: str, listing: Listing, *, code: str, detail: str, retryable: bool) -> None:
    """The source cannot be listed. What may pass by itself is tried again after a wait, a few times where no page comes
    in between. Items that were listed before go on; the job ends with the last of them.
    """
    if not _still_ours(session, worker, listing):
        return
    again = session.execute(
        text(
            "UPDATE job SET lister = NULL, listing_failures = listing_failures + 1, "
            "listing_until = now() + least(:longest, :first * power(2, listing_failures)) "
            "WHERE id = :job AND :retryable AND listing_failures + 1 < :most RETURNING 1"
        ),
        {
            "longest": LONGEST_WAIT,
            "first": FIRST_WAIT,
            "retryable": retryable,
            "most": MAX_LISTING_FAILURES,
            "job": listing.job_id,
        },
    )
    if again.one_or_none() is not None:
        return
    session.execute(
        text(
            "UPDATE job SET lister = NULL, listing_until = NULL, error_code = :code, error_detail = :detail, "
            "finished_at = CASE WHEN NOT EXISTS (SELECT 1 FROM item WHERE item.job_id = job.id "
            "AND item.state IN ('queued', 'running')) THEN now() END WHERE id = :job"
        ),
        {"code": code, "detail": storable(detail), "job": listing.job_id},
    )


def hand_back(session: Session, worker: str, listing: Listing) -> None:
    """For another worker to go on with, from the cursor."""
    if _still_ours(session, worker, listing):
        session.execute(
            text(
                "UPDATE job SET lister = NULL, listing_until = NULL, listing_attempt = listing_attempt - 1 "
                "WHERE id = :job"
            ),
            {"job": listing.job_id},
        )


def _still_ours(session: Session, worker: str, listing: Listing) -> bool:
    row = session.execute(
        text(
            "SELECT 1 FROM job WHERE id = :job AND lister = :worker AND listing_attempt = :attempt "
            "AND listed_at IS NULL AND cancelled_at IS NULL FOR UPDATE"
        ),
        {"job": listing.job_id, "worker": worker, "attempt": listing.attempt},
    )
    return row.one_or_none() is not None


def _refuse(session: Session, listing: Listing, refused: Sequence[Refused]) -> None:
    session.execute(
        text("""
            INSERT INTO item (job_id, lane, uri, state, error_code, error_detail, finished_at)
            SELECT :job, :lane, line, 'failed', code, detail, now()
            FROM unnest(CAST(:lines AS text[]), CAST(:codes AS text[]), CAST(:details AS text[]))
                AS refused(line, code, detail)
            ON CONFLICT DO NOTHING
        """),
        {
            "job": listing.job_id,
            "lane": listing.lane,
            "lines": [cut(storable(one.line)) for one in refused],
            "codes": [one.code for one in refused],
            "details": [storable(one.detail) for one in refused],
        },
    )


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document)
