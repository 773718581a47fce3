"""An item's life: whatever workers do, each item is in one state, one worker's, and comes to an end."""

from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from db.models import ItemState, Priority
from db.queue import items, jobs
from db.queue.items import MAX_FAILURES, MAX_LOST_LEASES, ClaimedItem, CompletedItem, FailedItem, ReclaimResult
from db.session import transaction
from tests.support.rows import LEASE, together

WORKERS = ("w1", "w2", "w3")
ENDED = {ItemState.DONE, ItemState.FAILED, ItemState.DEAD, ItemState.CANCELLED}
WAITS = [5, 15, 45, 135, 300]


@dataclass
class Life:
    """What is to be in an item's row."""

    job: object
    priority: int
    state: ItemState = ItemState.QUEUED
    attempt: int = 0
    lost: int = 0
    failures: int = 0
    isolated: bool = False
    worker: str | None = None
    silent: bool = False
    waits: bool = False

    def is_held_by(self, claimed, worker):
        return (self.state, self.attempt, self.worker) == (ItemState.RUNNING, claimed.attempt, worker)

    def let_go(self, state):
        self.state, self.worker, self.silent = state, None, False


class Lives(RuleBasedStateMachine):
    """Three workers, two jobs, and everything that can befall an item. `given` keeps every claim for ever, so that late
    workers come with claims that are not theirs any more.
    """

    def __init__(self, rows, result):
        super().__init__()
        rows.sql("DELETE FROM job")
        self.rows, self.result = rows, result
        self.jobs = [rows.job(priority=Priority.INTERACTIVE), rows.job(priority=Priority.BULK)]
        self.lives = {}
        self.given = []

    def held(self, worker):
        return [life for life in self.lives.values() if life.worker == worker and not life.silent]

    def pick(self, number):
        """One of all claims ever given out, with its worker; the newest come first."""
        return self.given[-1 - number % len(self.given)] if self.given else None

    @rule(job=st.integers(0, 1), number=st.integers(1, 3))
    def list_some(self, job, number):
        for made in self.rows.items(self.jobs[job], number):
            self.lives[made] = Life(self.jobs[job], priority=job)

    @rule(worker=st.sampled_from(WORKERS), limit=st.integers(1, 4))
    def claim(self, worker, limit):
        held = self.held(worker)
        if any(life.isolated for life in held):
            return  # a worker with a suspect in hand claims nothing beside it
        expected = self._next(limit, occupied=bool(held))
        claimed = self.rows.do(items.claim, worker, limit=limit, lease=LEASE, occupied=bool(held))
        assert [entry.id for entry in claimed] == sorted(expected)
        for entry in claimed:
            life = self.lives[entry.id]
            assert (entry.attempt, entry.isolated, entry.job_id) == (life.attempt + 1, life.isolated, life.job)
            life.state, life.attempt, life.worker, life.silent = ItemState.RUNNING, entry.attempt, worker, False
            self.given.append((entry, worker))

    def _next(self, limit, *, occupied):
        queued = [number for number, life in self.lives.items() if life.state == ItemState.QUEUED and not life.waits]
        since = {row.id: row.available_at for row in self.rows.sql("SELECT id, available_at FROM item")}
        queued.sort(key=lambda number: (self.lives[number].priority, since[number], number))
        seen = queued[:limit]
        if seen and self.lives[seen[0]].isolated:
            return [] if occupied else seen[:1]
        return [number for number in seen if not self.lives[number].isolated]

    @rule(number=st.integers(0, 9))
    def extend(self, number):
        if (pair := self.pick(number)) is None:
            return
        claimed, worker = pair
        life = self.lives[claimed.id]
        is_owned = life.is_held_by(claimed, worker)
        assert self.rows.do(items.extend, worker, [claimed], LEASE) == ({claimed.id} if is_owned else set())
        life.silent = life.silent and not is_owned

    @rule(number=st.integers(0, 9))
    def finish(self, number):
        if (pair := self.pick(number)) is None:
            return
        claimed, worker = pair
        life = self.lives[claimed.id]
        is_owned = life.is_held_by(claimed, worker)
        ended = CompletedItem(claimed, self.result, reused=False)
        assert self.rows.do(items.complete, worker, [ended]) == ({claimed.id} if is_owned else set())
        if is_owned:
            life.state, life.silent = ItemState.DONE, False

    @rule(number=st.integers(0, 9), retryable=st.booleans())
    def fail(self, number, retryable):
        if (pair := self.pick(number)) is None:
            return
        claimed, worker = pair
        life = self.lives[claimed.id]
        is_owned = life.is_held_by(claimed, worker)
        failed = FailedItem(claimed, "image_unreadable", "no \0 picture", retryable)
        assert self.rows.do(items.fail, worker, [failed]) == ({claimed.id} if is_owned else set())
        if not is_owned:
            return
        life.failures += retryable
        again = retryable and life.failures < MAX_FAILURES
        life.let_go(ItemState.QUEUED if again else ItemState.FAILED)
        if again:
            life.waits = True
            [row] = self.rows.sql("SELECT available_at - now() AS waits FROM item WHERE id = :id", id=claimed.id)
            assert 0.7 <= row.waits.total_seconds() / WAITS[life.failures - 1] <= 1.3

    @rule(number=st.integers(0, 9), wait=st.sampled_from([timedelta(0), timedelta(seconds=2)]))
    def hand_back(self, number, wait):
        if (pair := self.pick(number)) is None:
            return
        claimed, worker = pair
        life = self.lives[claimed.id]
        is_owned = life.is_held_by(claimed, worker)
        assert self.rows.do(items.release, worker, [claimed], wait=wait) == ({claimed.id} if is_owned else set())
        if is_owned:
            life.let_go(ItemState.QUEUED)
            life.attempt -= 1
            life.waits = bool(wait)

    @rule(worker=st.sampled_from(WORKERS))
    def fall_silent(self, worker):
        for life in self.held(worker):
            life.silent = True
        self.rows.sql(
            "UPDATE item SET lease_expires_at = now() - interval '1 s' WHERE worker = :w AND state = 'running'",
            w=worker,
        )

    @rule()
    def reclaim(self):
        lost = [life for life in self.lives.values() if life.state == ItemState.RUNNING and life.silent]
        for life in lost:
            life.lost, life.isolated = life.lost + 1, True
            life.let_go(ItemState.QUEUED if life.lost < MAX_LOST_LEASES else ItemState.DEAD)
        dead = sum(life.state == ItemState.DEAD for life in lost)
        assert self.rows.do(items.reclaim_expired) == ReclaimResult(requeued=len(lost) - dead, dead=dead)

    @rule()
    def let_time_pass(self):
        self.rows.sql("UPDATE item SET available_at = now() WHERE available_at > now()")
        for life in self.lives.values():
            life.waits = False

    @rule(job=st.integers(0, 1))
    def cancel(self, job):
        self.rows.do(jobs.cancel, self.jobs[job])
        for life in self._of(job):
            if life.state not in ENDED:
                life.let_go(ItemState.CANCELLED)

    @rule(job=st.integers(0, 1))
    def retry(self, job):
        again = [life for life in self._of(job) if life.state in ENDED - {ItemState.DONE}]
        assert self.rows.do(jobs.retry, self.jobs[job]) == len(again)
        for life in again:
            life.isolated, life.lost, life.failures, life.waits = life.state == ItemState.DEAD, 0, 0, False
            life.state = ItemState.QUEUED

    def _of(self, job):
        return [life for life in self.lives.values() if life.job == self.jobs[job]]

    @invariant()
    def rows_are_as_they_should(self):
        actual = {row.id: row for row in self.rows.sql("SELECT * FROM item")}
        assert set(actual) == set(self.lives)
        for number, life in self.lives.items():
            row = actual[number]
            is_, should_be = (
                (row.state, row.attempt, row.lost_lease_count, row.failure_count, row.isolated),
                (life.state, life.attempt, life.lost, life.failures, life.isolated),
            )
            assert is_ == should_be
            assert row.worker == life.worker
            assert (row.lease_expires_at is not None) == (row.state == ItemState.RUNNING)
            assert (row.finished_at is not None) == (row.state in ENDED)
            assert (row.result_id is not None) == (row.state == ItemState.DONE)
            assert row.state != ItemState.DEAD or (
                row.lost_lease_count == MAX_LOST_LEASES and row.error_code == "lost_worker"
            )

    def teardown(self):
        """One worker that does its work brings everything to its end."""
        self.rows.sql("UPDATE item SET lease_expires_at = now() - interval '1 s' WHERE state = 'running'")
        self.rows.do(items.reclaim_expired)
        self.rows.sql("UPDATE item SET available_at = now() WHERE available_at > now()")
        for _ in range(len(self.lives) + 1):
            claimed = self.rows.do(items.claim, "last", limit=2, lease=LEASE)
            self.rows.do(items.complete, "last", [CompletedItem(entry, self.result, reused=False) for entry in claimed])
        self.rows.do(jobs.close)
        assert self.rows.sql("SELECT id FROM item WHERE state IN ('queued', 'running')") == []
        assert self.rows.sql("SELECT id FROM job WHERE listed_at IS NOT NULL AND finished_at IS NULL") == []


def test_whatever_befalls_an_item_its_row_says_so_and_it_comes_to_an_end(rows):
    result = rows.result()
    run_state_machine_as_test(
        lambda: Lives(rows, result), settings=settings(max_examples=15, stateful_step_count=50, deadline=None)
    )


def lose(rows, worker):
    """The worker falls silent for longer than its lease, and somebody looks."""
    rows.sql(
        "UPDATE item SET lease_expires_at = now() - interval '1 s' WHERE worker = :w AND state = 'running'", w=worker
    )
    return rows.do(items.reclaim_expired)


def test_an_item_is_dead_exactly_when_its_third_worker_is_lost(rows):
    [item] = rows.items(rows.job(), 1)
    for time in (1, 2, 3):
        [claimed] = rows.do(items.claim, f"w{time}", limit=9, lease=LEASE)
        assert (claimed.attempt, claimed.isolated) == (time, time > 1)
        assert lose(rows, f"w{time}") == ReclaimResult(requeued=int(time < 3), dead=int(time == 3))
    [row] = rows.sql("SELECT state, error_code, error_detail FROM item WHERE id = :item", item=item)
    assert (row.state, row.error_code) == ("dead", "lost_worker")
    assert "3 times" in row.error_detail


def test_an_error_that_may_pass_is_met_six_times_with_growing_waits(rows):
    rows.items(rows.job(), 1)
    waits = []
    while claimed := rows.do(items.claim, "w", limit=1, lease=LEASE):
        rows.do(items.fail, "w", [FailedItem(claimed[0], "store_unreachable", "away", retryable=True)])
        [row] = rows.sql("SELECT state, available_at - now() AS wait, attempt FROM item")
        waits.append(row.wait.total_seconds())
        assert rows.do(items.waiting) is False
        rows.sql("UPDATE item SET available_at = now()")
    assert (row.state, row.attempt, len(waits)) == ("failed", MAX_FAILURES, MAX_FAILURES)
    assert all(0.7 * due <= wait <= 1.3 * due for wait, due in zip(waits, WAITS, strict=False))


def test_handing_back_costs_no_attempt_and_loses_no_place(rows):
    first, *others = rows.items(rows.job(), 3)
    for _ in range(10):
        [claimed] = rows.do(items.claim, "w1", limit=1, lease=LEASE)
        assert (claimed.id, claimed.attempt) == (first, 1)
        rows.do(items.release, "w1", [claimed])
    assert [entry.id for entry in rows.do(items.claim, "w2", limit=3, lease=LEASE)] == [first, *others]


def test_interactive_items_come_before_bulk_ones_that_were_there_first(rows):
    bulk, quick = rows.items(rows.job(), 2), rows.items(rows.job(priority=Priority.INTERACTIVE), 2)
    assert [entry.id for entry in rows.do(items.claim, "w", limit=2, lease=LEASE)] == quick
    assert [entry.id for entry in rows.do(items.claim, "w", limit=2, lease=LEASE)] == bulk


def test_an_item_that_failed_once_does_not_wait_behind_all_that_come_later(rows):
    job = rows.job()
    [unlucky] = rows.items(job, 1)
    [claimed] = rows.do(items.claim, "w", limit=1, lease=LEASE)
    rows.do(items.fail, "w", [FailedItem(claimed, "store_unreachable", "away", retryable=True)])
    rows.sql("UPDATE item SET available_at = now()")  # its wait is over
    rows.items(job, 5)
    assert rows.do(items.claim, "w", limit=1, lease=LEASE)[0].id == unlucky


def test_a_suspect_is_given_to_an_empty_hand_and_nothing_beside_it(rows):
    suspect, *others = rows.items(rows.job(), 4)
    rows.do(items.claim, "w1", limit=1, lease=LEASE)
    lose(rows, "w1")
    assert rows.do(items.claim, "w2", limit=4, lease=LEASE, occupied=True) == []
    [alone] = rows.do(items.claim, "w2", limit=4, lease=LEASE)
    assert (alone.id, alone.isolated) == (suspect, True)
    assert [entry.id for entry in rows.do(items.claim, "w3", limit=4, lease=LEASE, occupied=True)] == others


def test_a_worker_that_comes_late_changes_nothing(rows):
    [item] = rows.items(rows.job(), 1)
    result = rows.result()
    [late] = rows.do(items.claim, "w1", limit=1, lease=LEASE)
    lose(rows, "w1")
    [now] = rows.do(items.claim, "w2", limit=1, lease=LEASE)
    before = rows.sql("SELECT * FROM item")
    for worker, claimed in (("w1", late), ("w1", now), ("w2", late), ("w2", replace(now, attempt=3))):
        assert rows.do(items.lock_owned, worker, [claimed]) == set()
        assert rows.do(items.extend, worker, [claimed], LEASE) == set()
        assert rows.do(items.complete, worker, [CompletedItem(claimed, result, reused=False)]) == set()
        assert rows.do(items.fail, worker, [FailedItem(claimed, "x", "x", retryable=True)]) == set()
        assert rows.do(items.release, worker, [claimed]) == set()
    assert rows.sql("SELECT * FROM item") == before
    assert rows.do(items.complete, "w2", [CompletedItem(now, result, reused=True)]) == {item}


def test_eight_workers_share_two_thousand_items_and_none_is_given_twice(rows):
    made = rows.items(rows.job(), 2_000)

    def work(worker):
        own = []
        while claimed := rows.do(items.claim, worker, limit=32, lease=LEASE):
            own += [entry.id for entry in claimed]
        return own

    shares = together(*(lambda name=f"w{number}": work(name) for number in range(8)))
    assert sorted(entry for share in shares for entry in share) == made


def test_heartbeats_commits_cancels_and_reapers_never_wait_in_a_circle(rows):
    job = rows.job()
    rows.items(job, 400)
    claimed = rows.do(items.claim, "w", limit=400, lease=LEASE)
    result = rows.result()

    def heartbeats():
        return [rows.do(items.extend, "w", claimed[::-1], LEASE) for _ in range(15)]

    def checks():
        return [rows.do(items.lock_owned, "w", claimed[part::2]) for part in (0, 1) * 15]

    def commits():
        for start in range(0, 200, 20):
            chunk = claimed[start : start + 20][::-1]
            with transaction(rows.engine) as session:
                items.lock_owned(session, "w", chunk)
                items.complete(session, "w", [CompletedItem(entry, result, reused=True) for entry in chunk])

    def reaps():
        return [rows.do(lambda session: (items.reclaim_expired(session), jobs.close(session))) for _ in range(30)]

    together(heartbeats, checks, commits, reaps)
    together(heartbeats, lambda: rows.do(jobs.cancel, job), checks, reaps)
    states = dict(rows.sql("SELECT state, count(*) FROM item GROUP BY state"))
    assert states == {"done": 200, "cancelled": 200}


def test_details_that_no_text_column_holds_are_stored_readably(rows):
    rows.items(rows.job(), 1)
    claimed = rows.do(items.claim, "w", limit=1, lease=LEASE)
    detail = "\0" + "ü" * 5_000
    rows.do(items.fail, "w", [FailedItem(entry, "image_unreadable", detail, retryable=False) for entry in claimed])
    [row] = rows.sql("SELECT error_detail FROM item")
    assert row.error_detail == ("\\0" + "ü" * 5_000)[:2_000]


@pytest.mark.parametrize("nothing", [items.complete, items.fail, items.release])
def test_nothing_to_write_writes_nothing(rows, nothing):
    assert rows.do(nothing, "w", []) == set()
    assert rows.do(items.extend, "w", [], LEASE) == set()
    stranger = ClaimedItem(99, 1, rows.job(), "s3://b/k", "", isolated=False, vocabulary_id=None, recipe_id=None)
    assert rows.do(items.release, "w", [stranger]) == set()
