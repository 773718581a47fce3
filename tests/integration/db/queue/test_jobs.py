"""Jobs are made once, counted truthfully, cancelled, retried, listed again and closed."""

import threading
import time
from dataclasses import replace

import pytest

from db import api_keys
from db.api_keys import Scope
from db.errors import ConflictError, CursorInvalidError, NotFoundError
from db.models import ItemState, JobKind, Priority
from db.queue import items, jobs, listings
from db.queue.items import CompletedItem, FailedItem
from db.queue.jobs import NewJob
from db.queue.listings import ListedObject
from db.queue.progress import JobStatus, progress_of
from db.session import transaction
from tests.support.rows import LEASE, together


@pytest.fixture
def wish(rows):
    vocabulary, recipe = rows.wish()
    key, _ = rows.do(api_keys.create, "tests", [Scope.WRITE])
    return NewJob(
        kind=JobKind.BULK,
        priority=Priority.BULK,
        source={"kind": "given", "given": ["s3://bucket/a.jpg"]},
        vocabulary_id=vocabulary,
        recipe_id=recipe,
        api_key_id=key.id,
        idempotency_key="once",
        request_digest="d1",
    )


def progress(rows, job):
    return rows.do(lambda session: progress_of(session, jobs.get(session, job)))


def end(rows, worker="w", limit=99, **of):
    """Claim and finish, or fail with `code`."""
    claimed = rows.do(items.claim, worker, limit=limit, lease=LEASE)
    if "code" in of:
        return rows.do(items.fail, worker, [FailedItem(entry, of["code"], "no", retryable=False) for entry in claimed])
    result = rows.result()
    return rows.do(
        items.complete, worker, [CompletedItem(entry, result, reused=of.get("reused", False)) for entry in claimed]
    )


def test_one_idempotency_key_makes_one_job_however_many_ask_at_once(rows, wish):
    made = together(*(lambda: rows.do(jobs.create, wish) for _ in range(8)))
    assert len({job.id for job, _ in made}) == 1
    assert sorted(new for _, new in made) == [False] * 7 + [True]


def test_a_rolled_back_request_leaves_its_idempotency_key_free(rows, wish):
    def broken():
        with transaction(rows.engine) as session:
            jobs.create(session, wish)
            time.sleep(0.2)
            raise ZeroDivisionError

    def patient():
        time.sleep(0.05)
        return rows.do(jobs.create, wish)

    with pytest.raises(ZeroDivisionError):
        together(broken, lambda: None)
    with pytest.raises(ZeroDivisionError):
        together(broken, patient)
    assert rows.do(jobs.create, wish)[1] is False  # the patient one made it


def test_another_request_under_the_same_idempotency_key_is_refused(rows, wish):
    job, _ = rows.do(jobs.create, wish)
    with pytest.raises(ConflictError, match=str(job.id)):
        rows.do(jobs.create, replace(wish, request_digest="d2"))
    other, _ = rows.do(api_keys.create, "others", [Scope.WRITE])
    assert rows.do(jobs.create, replace(wish, api_key_id=other.id, request_digest="d2"))[1]


def test_requests_without_an_idempotency_key_each_make_a_job(rows, wish):
    made = [rows.do(jobs.create, replace(wish, idempotency_key=None, request_digest=None)) for _ in range(2)]
    assert made[0][0].id != made[1][0].id


def test_progress_counts_states_and_never_ends_before_the_items(rows):
    job = rows.job()
    assert (progress(rows, job).status, progress(rows, job).progress) == (JobStatus.LISTING, 0)
    rows.items(job, 6)
    end(rows, limit=2)
    end(rows, limit=1, reused=True)
    end(rows, limit=1, code="image_unreadable")
    rows.do(items.claim, "w", limit=1, lease=LEASE)
    rows.do(jobs.close)
    now = progress(rows, job)
    counts = {str(state): number for state, number in now.counts.items() if number}
    assert counts == {"done": 3, "failed": 1, "running": 1, "queued": 1}
    assert (now.status, now.progress, now.reused) == (JobStatus.RUNNING, 4 / 6, 1)
    assert now.rate > 0
    assert now.eta_seconds == pytest.approx(2 / now.rate)
    rows.sql("UPDATE item SET lease_expires_at = now() - interval '1 s' WHERE state = 'running'")
    rows.do(items.reclaim_expired)
    end(rows)
    end(rows)
    assert rows.do(jobs.close) == 1
    ended = progress(rows, job)
    assert (ended.status, ended.progress, ended.eta_seconds) == (JobStatus.DONE, 1, None)
    assert ended.job.finished_at is not None
    assert ended.rate > 0


def test_a_job_that_has_ended_is_not_counted_again_until_it_is_tried_again(rows):
    job = rows.job()
    rows.items(job, 4)
    end(rows, limit=2, reused=True)
    end(rows, limit=1, code="image_unreadable")
    end(rows)
    counted = progress(rows, job)
    assert rows.sql("SELECT item_counts FROM job") == [(None,)]
    rows.do(jobs.close)
    assert rows.sql("SELECT item_counts FROM job") == [({"done": 3, "failed": 1, "reused": 2},)]
    kept = progress(rows, job)
    assert (kept.counts, kept.reused) == (counted.counts, counted.reused)
    rows.do(jobs.retry, job)
    again = progress(rows, job)
    assert (again.counts[ItemState.QUEUED], again.counts[ItemState.DONE], again.reused) == (1, 3, 2)
    rows.do(jobs.cancel, job)
    assert rows.sql("SELECT item_counts FROM job") == [({"done": 3, "cancelled": 1, "reused": 2},)]


def test_a_job_without_pictures_is_done_and_complete(rows):
    job = rows.job()
    rows.items(job, 0)
    assert rows.do(jobs.close) == 1
    assert (progress(rows, job).status, progress(rows, job).progress) == (JobStatus.DONE, 1)


def test_the_counts_always_add_up_while_workers_end_items(rows):
    job = rows.job()
    rows.items(job, 300)
    result = rows.result()
    over = threading.Event()

    def work(worker):
        while claimed := rows.do(items.claim, worker, limit=7, lease=LEASE):
            rows.do(items.complete, worker, [CompletedItem(entry, result, reused=False) for entry in claimed])

    def watch():
        seen = []
        while not over.is_set():
            rows.do(jobs.close)
            seen.append(progress(rows, job))
        return seen

    def all_work():
        try:
            together(*(lambda name=f"w{number}": work(name) for number in range(4)))
        finally:
            over.set()

    _, seen = together(all_work, watch)
    assert {sum(entry.counts.values()) for entry in seen} == {300}
    done = [entry.counts[ItemState.DONE] for entry in seen]
    assert done == sorted(done)
    assert all(entry.counts[ItemState.DONE] == 300 for entry in seen if entry.job.finished_at)
    rows.do(jobs.close)
    [row] = rows.sql("SELECT finished_at >= (SELECT max(finished_at) FROM item) AS after FROM job")
    assert row.after


def test_a_retry_in_the_moment_of_closing_leaves_the_job_open(rows):
    job = rows.job()
    rows.items(job, 1)
    end(rows, code="image_unreadable")
    with transaction(rows.engine) as closing:
        # The retry holds the job: this look passes it by instead of closing what is being opened.
        with transaction(rows.engine) as session:
            assert jobs.retry(session, job) == 1
            assert jobs.close(closing) == 0
        assert jobs.close(closing) == 0
    assert progress(rows, job).job.finished_at is None
    assert progress(rows, job).status is JobStatus.RUNNING


def test_cancelling_twice_is_cancelling_once_and_cancelling_the_ended_is_refused(rows):
    job = rows.job()
    rows.items(job, 3)
    claimed = rows.do(items.claim, "w", limit=1, lease=LEASE)
    first = rows.do(jobs.cancel, job)
    assert rows.do(jobs.cancel, job).cancelled_at == first.cancelled_at
    assert rows.do(items.extend, "w", claimed, LEASE) == set()
    assert progress(rows, job).status is JobStatus.CANCELLED
    assert progress(rows, job).counts[ItemState.CANCELLED] == 3
    done = rows.job()
    rows.items(done, 0)
    rows.do(jobs.close)
    with pytest.raises(ConflictError, match="nothing to cancel"):
        rows.do(jobs.cancel, done)
    with pytest.raises(NotFoundError):
        rows.do(jobs.cancel, rows.result())


def test_a_job_whose_items_have_ended_is_not_cancelled_before_the_scheduler_closes_it(rows):
    job = rows.job()
    rows.items(job, 1)
    [claimed] = rows.do(items.claim, "w", limit=1, lease=LEASE)
    rows.do(items.fail, "w", [items.FailedItem(claimed, "image_corrupt", "broken", retryable=False)])
    rows.sql("UPDATE job SET listed_at = now()")
    with pytest.raises(ConflictError, match="nothing to cancel"):
        rows.do(jobs.cancel, job)
    assert progress(rows, job).status is JobStatus.DONE
    rows.do(jobs.rescan, job)
    assert rows.do(jobs.cancel, job).cancelled_at is not None  # it is listed again


def test_what_was_listed_before_the_source_broke_goes_on_and_can_be_cancelled(rows):
    job = rows.job()
    listing = rows.do(listings.claim, "l", LEASE)
    rows.do(
        listings.add,
        "l",
        listing,
        [ListedObject("s3://b/1.jpg"), ListedObject("s3://b/2.jpg")],
        cursor={"after": 1},
        lease=LEASE,
    )
    rows.do(listings.fail, "l", listing, code="access_denied", detail="no", retryable=False)
    assert rows.do(jobs.close) == 0
    now = progress(rows, job)
    assert (now.status, now.job.finished_at, now.counts[ItemState.QUEUED]) == (JobStatus.FAILED, None, 2)
    rows.do(jobs.cancel, job)
    assert progress(rows, job).counts[ItemState.CANCELLED] == 2
    assert rows.do(jobs.retry, job) == 2
    end(rows)
    assert progress(rows, job).status is JobStatus.LISTING  # it goes on from the cursor
    assert rows.do(listings.claim, "l", LEASE).cursor == {"after": 1}


def test_a_broken_job_ends_with_its_last_item(rows):
    job = rows.job()
    listing = rows.do(listings.claim, "l", LEASE)
    rows.do(listings.add, "l", listing, [ListedObject("s3://b/1.jpg")], cursor={"after": 1}, lease=LEASE)
    rows.do(listings.fail, "l", listing, code="access_denied", detail="no", retryable=False)
    end(rows)
    assert rows.do(jobs.close) == 1
    now = progress(rows, job)
    assert (now.status, now.job.error_code) == (JobStatus.FAILED, "access_denied")
    assert now.job.finished_at is not None
    with pytest.raises(ConflictError):
        rows.do(jobs.cancel, job)


def test_a_retry_takes_what_failed_died_or_was_cancelled_and_not_what_can_never_be(rows):
    job = rows.job()
    rows.items(job, 5)
    rows.sql(
        "UPDATE item SET state = (ARRAY['failed', 'dead', 'cancelled', 'done', 'failed'])[row_number], "
        "lost_lease_count = 2, attempt = 1, failure_count = 4, "
        "error_code = CASE row_number WHEN 5 THEN 'source_invalid' END "
        "FROM (SELECT id AS number, row_number() OVER (ORDER BY id) FROM item) AS numbered WHERE id = number"
    )
    assert rows.do(jobs.retry, job) == 3
    actual = rows.sql("SELECT state, isolated, lost_lease_count, failure_count FROM item ORDER BY id")
    fresh = ("queued", False, 0, 0)
    assert [tuple(row) for row in actual[:3]] == [fresh, ("queued", True, 0, 0), fresh]
    assert [row.state for row in actual[3:]] == ["done", "failed"]
    assert rows.do(jobs.retry, job) == 0
    with pytest.raises(NotFoundError):
        rows.do(jobs.retry, rows.result())


def test_pages_of_jobs_and_items_hold_each_once_in_order(rows):
    made = [rows.job() for _ in range(7)]
    seen, cursor = [], None
    while True:
        page, cursor = rows.do(jobs.page, cursor=cursor, limit=3)
        seen += [entry.job.id for entry in page]
        if cursor is None:
            break
    assert seen == made[::-1]
    numbers = rows.items(made[0], 10)
    rows.sql("UPDATE item SET state = 'failed' WHERE id % 2 = 0")
    seen, cursor = [], None
    while True:
        page, cursor = rows.do(jobs.items, made[0], state=ItemState.FAILED, cursor=cursor, limit=2)
        seen += [entry.id for entry in page]
        if cursor is None:
            break
    assert seen == [number for number in numbers if number % 2 == 0]


def test_a_cursor_of_another_job_or_state_is_refused(rows):
    entry, other = rows.job(), rows.job()
    rows.items(entry, 3)
    _, cursor = rows.do(jobs.items, entry, state=None, cursor=None, limit=2)
    for job, state in ((other, None), (entry, ItemState.DONE)):
        with pytest.raises(CursorInvalidError):
            rows.do(jobs.items, job, state=state, cursor=cursor, limit=2)
    with pytest.raises(CursorInvalidError):
        rows.do(jobs.page, cursor=cursor, limit=2)


def test_a_job_that_is_not_there_is_said_so(rows):
    with pytest.raises(NotFoundError, match="there is no job"):
        rows.do(jobs.get, rows.result())
