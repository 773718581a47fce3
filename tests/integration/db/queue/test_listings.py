"""A source is listed by one worker at a time, page by page, from where the last page ended."""

import pytest

from db.errors import ConflictError
from db.models import Priority
from db.queue import items, jobs, listings
from db.queue.listings import MAX_LISTING_FAILURES, ListedObject, RejectedLine
from db.queue.progress import JobStatus, progress_of
from tests.support.rows import LEASE, together


def actual(*numbers, etag=""):
    return [ListedObject(f"s3://bucket/{number}.jpg", etag) for number in numbers]


def add(rows, worker, listing, pick, at):
    return rows.do(listings.add, worker, listing, pick, cursor={"at": at}, lease=LEASE)


def run_out(rows):
    rows.sql("UPDATE job SET lease_expires_at = now() - interval '1 s' WHERE lease_expires_at IS NOT NULL")
    rows.sql("UPDATE job SET available_at = now() WHERE available_at > now()")


def status(rows, job):
    return rows.do(lambda session: progress_of(session, jobs.get(session, job))).status


def uris(rows):
    return [row.uri for row in rows.sql("SELECT uri FROM item ORDER BY id")]


def test_one_of_many_workers_lists_a_source_interactive_ones_first(rows):
    bulk, quick = rows.job(), rows.job(priority=Priority.INTERACTIVE)
    assert rows.do(listings.waiting)
    claimed = together(*(lambda name=f"l{number}": rows.do(listings.claim, name, LEASE) for number in range(6)))
    assert {entry.id for entry in claimed if entry} == {bulk, quick}
    assert sum(entry is not None for entry in claimed) == 2
    assert not rows.do(listings.waiting)
    rows.sql("UPDATE job SET lease_expires_at = NULL")
    assert rows.do(listings.claim, "l", LEASE).id == quick
    assert rows.do(listings.claim, "l", LEASE).priority == 1


def test_another_worker_goes_on_where_a_silent_one_stopped_and_shuts_it_out(rows):
    job = rows.job()
    first = rows.do(listings.claim, "l1", LEASE)
    assert first.cursor is None
    assert add(rows, "l1", first, actual(1, 2), at=2) == 2
    run_out(rows)
    second = rows.do(listings.claim, "l2", LEASE)
    assert (second.id, second.cursor, second.attempt) == (job, {"at": 2}, 2)
    assert add(rows, "l1", first, actual(3), at=3) is None
    assert rows.do(listings.finish, "l1", first) is False
    rows.do(listings.fail, "l1", first, code="x", detail="x", retryable=False)
    rows.do(listings.release, "l1", first)
    assert add(rows, "l2", second, actual(3, 4), at=4) == 2
    assert rows.do(listings.finish, "l2", second) is True
    assert uris(rows) == [entry.uri for entry in actual(1, 2, 3, 4)]
    assert rows.do(listings.claim, "l3", LEASE) is None


def test_the_lease_of_a_claim_by_the_same_worker_is_another_one(rows):
    rows.job()
    first = rows.do(listings.claim, "l1", LEASE)
    run_out(rows)
    second = rows.do(listings.claim, "l1", LEASE)
    assert add(rows, "l1", first, actual(1), at=1) is None
    assert add(rows, "l1", second, actual(1), at=1) == 1


def test_handing_a_listing_back_costs_no_attempt(rows):
    rows.job()
    for _ in range(3):
        listing = rows.do(listings.claim, "l", LEASE)
        assert listing.attempt == 1
        rows.do(listings.release, "l", listing)


def test_a_page_that_comes_twice_adds_nothing_and_other_content_under_a_known_key_does(rows):
    rows.job()
    listing = rows.do(listings.claim, "l", LEASE)
    assert add(rows, "l", listing, actual(1, 2, 2, etag="a"), at=2) == 2
    assert add(rows, "l", listing, actual(1, 2, etag="a"), at=2) == 0
    assert add(rows, "l", listing, [*actual(1, etag="a"), *actual(2, etag="b"), *actual(3, etag="a")], at=3) == 2


def test_refused_lines_are_failed_items_that_nobody_claims(rows):
    job = rows.job()
    listing = rows.do(listings.claim, "l", LEASE)
    refused = [
        RejectedLine("\0ü" * 3_000, "source_invalid", "x" * 5_000),
        RejectedLine("line 2", "source_invalid", "no \0"),
    ]
    assert add(rows, "l", listing, [*refused, *refused, *actual(1)], at=1) == 1
    assert [entry.uri for entry in rows.do(items.claim, "w", limit=9, lease=LEASE)] == ["s3://bucket/1.jpg"]
    failed = rows.sql("SELECT uri, error_code, error_detail, finished_at FROM item WHERE state = 'failed'")
    assert len(failed) == 2
    assert all(row.error_code == "source_invalid" and row.finished_at and len(row.uri) <= 2_048 for row in failed)
    assert rows.do(jobs.retry, job) == 0


def test_a_cancelled_job_is_not_listed_further(rows):
    job = rows.job()
    listing = rows.do(listings.claim, "l", LEASE)
    add(rows, "l", listing, actual(1), at=1)
    rows.do(jobs.cancel, job)
    assert add(rows, "l", listing, actual(2), at=2) is None
    assert rows.do(listings.finish, "l", listing) is False
    run_out(rows)
    assert rows.do(listings.claim, "l", LEASE) is None
    assert [row.state for row in rows.sql("SELECT state FROM item")] == ["cancelled"]


def test_what_may_pass_is_tried_again_with_growing_waits_and_then_given_up(rows):
    job = rows.job()
    waits = []
    for time in range(1, MAX_LISTING_FAILURES + 1):
        listing = rows.do(listings.claim, "l", LEASE)
        rows.do(listings.fail, "l", listing, code="store_unreachable", detail=f"time {time}", retryable=True)
        [row] = rows.sql("SELECT available_at - now() AS wait, lease_expires_at, error_code FROM job")
        if time < MAX_LISTING_FAILURES:
            assert rows.do(listings.claim, "l", LEASE) is None
            waits.append(row.wait.total_seconds())
        run_out(rows)
    assert all(0.7 <= wait / usual <= 1.3 for wait, usual in zip(waits, [5, 15, 45, 135, 300, 300, 300], strict=True))
    assert (row.lease_expires_at, row.error_code) == (None, "store_unreachable")
    assert rows.do(listings.claim, "l", LEASE) is None
    assert status(rows, job) is JobStatus.FAILED
    rows.do(jobs.retry, job)
    assert rows.do(listings.claim, "l", LEASE).id == job


def test_errors_and_kills_count_only_until_the_next_page(rows):
    job = rows.job()
    for page in range(3 * MAX_LISTING_FAILURES):
        run_out(rows)
        rows.do(listings.claim, "killed", LEASE)
        run_out(rows)
        listing = rows.do(listings.claim, "l", LEASE)
        add(rows, "l", listing, actual(page), at=page)
        rows.do(listings.fail, "l", listing, code="store_unreachable", detail="away", retryable=True)
    assert status(rows, job) is JobStatus.LISTING


def test_what_cannot_pass_ends_the_job_at_once_with_its_reason(rows):
    job = rows.job()
    listing = rows.do(listings.claim, "l", LEASE)
    rows.do(listings.fail, "l", listing, code="bucket_missing", detail="no \0 bucket", retryable=False)
    [row] = rows.sql("SELECT error_code, error_detail, finished_at FROM job")
    assert (row.error_code, row.error_detail, row.finished_at is None) == ("bucket_missing", "no \\0 bucket", False)
    with pytest.raises(ConflictError):
        rows.do(jobs.cancel, job)


def test_listing_again_begins_at_the_beginning_whoever_is_on_its_way(rows):
    job = rows.job()
    old = rows.do(listings.claim, "l1", LEASE)
    add(rows, "l1", old, actual(1, 2), at=2)
    rows.do(jobs.rescan, job)
    assert add(rows, "l1", old, actual(3), at=3) is None  # else its cursor would hide what is new before it
    listing = rows.do(listings.claim, "l2", LEASE)
    assert listing.cursor is None
    assert add(rows, "l2", listing, actual(0, 1, 2, 3), at=3) == 2
    rows.do(listings.finish, "l2", listing)
    rows.do(jobs.rescan, job)
    assert status(rows, job) is JobStatus.LISTING
    rows.do(jobs.cancel, job)
    with pytest.raises(ConflictError, match="cancelled"):
        rows.do(jobs.rescan, job)
