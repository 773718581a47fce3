"""One lease for all: a row is one worker's, late writers change nothing, and whatever happens, it comes to an end."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import text

from db import leases
from db.label_studio import feedback, outbox, project_sync
from db.queue import items, listings
from db.queue.items import CompletedItem, FailedItem
from db.session import transaction
from tests.support.label_studio_rows import INSTANCE, ProjectRows
from tests.support.rows import LEASE

WORKERS = ("w1", "w2")
ERROR = {"code": "store_unreachable", "detail": "away \0"}


class Items:
    table, is_open = items.ITEMS, "state IN ('queued', 'running')"
    max_failures, max_attempts, max_lost = items.MAX_FAILURES, None, items.MAX_LOST_LEASES

    def __init__(self, rows):
        self.rows, self.job, self.result = rows, rows.job(), rows.result()

    def add(self):
        self.rows.items(self.job, 1)

    def claim(self, worker):
        return self.rows.do(items.claim, worker, limit=1, lease=LEASE)

    def complete(self, worker, claim):
        return bool(self.rows.do(items.complete, worker, [CompletedItem(claim, self.result, reused=False)]))

    def fail(self, worker, claim, *, retryable):
        self.rows.do(items.fail, worker, [FailedItem(claim, **ERROR, retryable=retryable)])

    def release(self, worker, claim):
        self.rows.do(items.release, worker, [claim])

    def reclaim(self):
        self.rows.do(items.reclaim_expired)


class Listings:
    table, is_open = listings.LISTINGS, listings.LISTINGS.due
    max_failures, max_attempts, max_lost = listings.MAX_LISTING_FAILURES, None, None

    def __init__(self, rows):
        self.rows = rows

    def add(self):
        self.rows.job()

    def claim(self, worker):
        claimed = self.rows.do(listings.claim, worker, LEASE)
        return [claimed] if claimed else []

    def complete(self, worker, claim):
        return self.rows.do(listings.finish, worker, claim)

    def fail(self, worker, claim, *, retryable):
        self.rows.do(listings.fail, worker, claim, **ERROR, retryable=retryable)

    def release(self, worker, claim):
        self.rows.do(listings.release, worker, claim)


class Syncs:
    table, is_open = project_sync.SYNCS, project_sync.SYNCS.due
    max_failures, max_attempts, max_lost = project_sync.MAX_SYNC_FAILURES, None, None

    def __init__(self, rows):
        self.rows, self.number = ProjectRows(rows.engine), 100
        rows.sql("DELETE FROM project")

    def add(self):
        self.number += 1
        self.rows.do(project_sync.request, self.rows.note(ls_project_id=self.number).row)

    def claim(self, worker):
        claimed = self.rows.do(project_sync.claim, worker, LEASE, instance=INSTANCE)
        return [claimed] if claimed else []

    def complete(self, worker, claim):
        return self.rows.do(project_sync.finish, worker, claim)

    def fail(self, worker, claim, *, retryable):
        self.rows.do(project_sync.fail, worker, claim, **ERROR, retryable=retryable)

    def release(self, worker, claim):
        self.rows.do(project_sync.release, worker, claim)


class Predictions:
    table, is_open = outbox.OUTBOX, outbox.OUTBOX.due
    max_failures, max_attempts, max_lost = None, None, None

    def __init__(self, rows):
        self.rows, self.tasks = ProjectRows(rows.engine), 0

    def add(self):
        self.tasks += 1
        self.rows.ask(self.tasks)
        self.rows.finish()

    def claim(self, worker):
        return self.rows.do(outbox.claim, worker, limit=1, lease=LEASE, instance=INSTANCE)

    def complete(self, worker, claim):
        return self.rows.do(outbox.mark_sent, worker, claim, 1000 + claim.id)

    def fail(self, worker, claim, *, retryable):
        if retryable:
            self.rows.do(outbox.reschedule, worker, claim, **ERROR)
        else:
            self.rows.do(outbox.fail, worker, claim, **ERROR)

    def release(self, worker, claim):
        self.rows.do(outbox.release, worker, [claim])


class Annotations:
    table, is_open = feedback.ANNOTATIONS, feedback.ANNOTATIONS.due
    max_failures, max_attempts, max_lost = None, feedback.MAX_ATTEMPTS, None

    def __init__(self, rows):
        self.rows, self.number = ProjectRows(rows.engine), 0

    def add(self):
        self.number += 1
        self.rows.do(feedback.record, self.rows.known.row, 1, self.number, [])

    def claim(self, worker):
        return self.rows.do(feedback.claim, worker, limit=1, lease=LEASE)

    def complete(self, worker, claim):
        return self.rows.do(feedback.save_comparison, worker, claim, [], {})

    def fail(self, worker, claim, *, retryable):
        self.rows.do(feedback.fail, worker, claim, **ERROR, retryable=retryable)

    def release(self, worker, claim):
        self.rows.do(feedback.release, worker, [claim])


@dataclass
class Life:
    """What is to be in a row."""

    attempt: int = 0
    failures: int = 0
    lost: int = 0
    worker: str | None = None
    expired: bool = False
    waits: bool = False
    ended: bool = False

    def let_go(self, **changes):
        self.worker, self.expired = None, False
        for name, value in changes.items():
            setattr(self, name, value)


@dataclass(eq=False)
class Machine(RuleBasedStateMachine):
    """Two workers, and everything that can befall a row. Every claim is kept, so that late workers come too."""

    rows: object
    user: type
    lives: dict = field(default_factory=dict)
    claims: list = field(default_factory=list)

    def __post_init__(self):
        super().__init__()
        self.rows.sql("TRUNCATE job, item, project, prediction, annotation CASCADE")
        self.adapter = self.user(self.rows)

    def stored_rows(self):
        return {
            row.id: row
            for row in self.rows.sql(f"SELECT *, {self.user.is_open} AS open FROM {self.user.table.name}")  # noqa: S608
        }

    def pick(self, number):
        """One of all claims, with its worker, and the row's life if it is still that worker's attempt."""
        if not self.claims:
            return None, None, None
        worker, claim = self.claims[-1 - number % len(self.claims)]
        life = self.lives[claim.id]
        owned = not life.ended and (life.worker, life.attempt) == (worker, claim.attempt)
        return worker, claim, life if owned else None

    @rule()
    def add(self):
        self.adapter.add()
        for new in self.stored_rows().keys() - self.lives.keys():
            self.lives[new] = Life()

    @rule(worker=st.sampled_from(WORKERS))
    def claim(self, worker):
        takes_expired = self.user.max_lost is None
        if self.user.max_attempts:
            for life in self.lives.values():
                if life.expired and life.attempt >= self.user.max_attempts:
                    life.let_go(ended=True)
        available = {
            number
            for number, life in self.lives.items()
            if not life.ended and not life.waits and (life.worker is None or (life.expired and takes_expired))
        }
        claimed = self.adapter.claim(worker)
        assert bool(claimed) == bool(available)
        for entry in claimed:
            life = self.lives[entry.id]
            assert entry.id in available
            assert entry.attempt == life.attempt + 1
            life.attempt, life.worker, life.expired = entry.attempt, worker, False
            self.claims.append((worker, entry))

    @rule(number=st.integers(0, 6))
    def extend(self, number):
        worker, claim, life = self.pick(number)
        if claim is not None:
            kept = self.rows.do(leases.extend, worker, [claim], LEASE, table=self.user.table)
            assert kept == ({claim.id} if life else set())
            assert kept == self.rows.do(leases.lock_owned, worker, [claim], table=self.user.table)
            if life:
                life.expired = False

    @rule(number=st.integers(0, 6))
    def complete(self, number):
        worker, claim, life = self.pick(number)
        if claim is not None:
            assert self.adapter.complete(worker, claim) == (life is not None)
            if life:
                life.let_go(ended=True)

    @rule(number=st.integers(0, 6), retryable=st.booleans())
    def fail(self, number, retryable):
        worker, claim, life = self.pick(number)
        if claim is None:
            return
        self.adapter.fail(worker, claim, retryable=retryable)
        if life:
            life.failures += retryable
            final = not retryable
            final |= self.user.max_failures is not None and life.failures >= self.user.max_failures
            final |= self.user.max_attempts is not None and life.attempt >= self.user.max_attempts
            life.let_go(ended=final, waits=True)

    @rule(number=st.integers(0, 6))
    def release(self, number):
        worker, claim, life = self.pick(number)
        if claim is not None:
            self.adapter.release(worker, claim)
            if life:
                life.let_go(attempt=life.attempt - 1)

    @rule(worker=st.sampled_from(WORKERS))
    def fall_silent(self, worker):
        self.rows.sql(
            f"UPDATE {self.user.table.name} SET lease_expires_at = now() - interval '1 s' "  # noqa: S608
            "WHERE worker = :worker AND lease_expires_at IS NOT NULL",
            worker=worker,
        )
        for life in self.lives.values():
            life.expired |= life.worker == worker

    @rule()
    def reclaim(self):
        if self.user.max_lost is not None:
            self.adapter.reclaim()
            for life in self.lives.values():
                if life.expired:
                    life.let_go(lost=life.lost + 1, ended=life.lost + 1 >= self.user.max_lost)

    @rule()
    def let_time_pass(self):
        self.rows.sql(f"UPDATE {self.user.table.name} SET available_at = now() WHERE available_at > now()")  # noqa: S608
        for life in self.lives.values():
            life.waits = False

    @invariant()
    def rows_are_as_they_should(self):
        actual = self.stored_rows()
        assert actual.keys() == self.lives.keys()
        for number, life in self.lives.items():
            row = actual[number]
            assert (row.open, row.attempt) == (not life.ended, life.attempt)
            assert (row.lease_expires_at is not None) == (life.worker is not None)
            if not life.ended:
                assert (row.worker, row.failure_count) == (life.worker, life.failures)

    def teardown(self):
        """A worker that does its work brings everything to its end."""
        for worker in WORKERS:
            self.fall_silent(worker)
        self.reclaim()
        self.let_time_pass()
        while claimed := self.adapter.claim("last"):
            for claim in claimed:
                assert self.adapter.complete("last", claim)
        assert not any(row.open for row in self.stored_rows().values())


@pytest.mark.parametrize("user", [Items, Listings, Predictions, Syncs, Annotations], ids=lambda user: user.__name__)
def test_whatever_befalls_a_leased_row_it_is_one_workers_and_comes_to_an_end(rows, user):
    limits = settings(max_examples=10, stateful_step_count=40, deadline=None)
    run_state_machine_as_test(lambda: Machine(rows, user), settings=limits)


@pytest.mark.parametrize("user", [Items, Listings, Predictions, Syncs, Annotations], ids=lambda user: user.__name__)
def test_waits_grow_threefold_to_five_minutes_with_a_spread(rows, user):
    adapter, waits = user(rows), []
    adapter.add()
    for _ in range((user.max_failures or user.max_attempts or 9) - 1):
        [claim] = adapter.claim("w")
        adapter.fail("w", claim, retryable=True)
        [wait] = rows.sql(
            f"SELECT extract(epoch FROM available_at - now()) FROM {user.table.name} WHERE {user.is_open}"  # noqa: S608
        )
        waits.append(float(wait[0]))
        rows.sql(f"UPDATE {user.table.name} SET available_at = now()")  # noqa: S608
    usual = [5, 15, 45, 135, 300, 300, 300, 300][: len(waits)]
    assert all(0.7 <= wait / mean <= 1.3 for wait, mean in zip(waits, usual, strict=True)), waits


CLAIMS = [
    (items._CLAIM, {"occupied": False}, "item_queued_idx"),
    (listings._CLAIM, {}, "job_unlisted_idx"),
    (outbox.CHOOSE, {"instance": INSTANCE}, "prediction_pending_idx"),
    (outbox.CHOOSE, {"instance": INSTANCE}, "prediction_unrendered_idx"),
    (feedback._CLAIM, {}, "annotation_pending_idx"),
    (leases._reclaim(items.ITEMS, "state = 'queued'", "id", "true"), {}, "item_running_idx"),
]


@pytest.mark.parametrize(("statement", "values", "index"), CLAIMS, ids=[index for *_, index in CLAIMS])
def test_a_claim_finds_its_rows_by_a_partial_index(rows, statement, values, index):
    with transaction(rows.engine) as session:
        session.execute(text("SET LOCAL enable_seqscan = off"))  # the tables are empty
        session.execute(text("SET LOCAL enable_bitmapscan = off"))
        given = {"limit": 10, "worker": "w", "lease": 30.0} | values
        selected = {name: given[name] for name in statement.compile().params if name in given}
        config = "\n".join(session.scalars(text(f"EXPLAIN {statement.text}"), selected))
    assert index in config
