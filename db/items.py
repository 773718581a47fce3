"""Items from queued to an end: claims, leases, hand-backs and failures. Every write of a worker is fenced.

queued ──claim──> running ──finish──> done
  ^                 │ ├──fail──────> failed
  ├──put_off────────┤ └──(cancel)──> cancelled
  ├──hand_back──────┤
  └──reap (silent)──┴──reap, the third time──> dead
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from db import outbox
from db.models import LANES, Lane

MAX_LOST = 3
"""Workers that an item may take with it before it is dead."""
MAX_FAILURES = 6
"""Attempts at an item whose errors may pass by themselves. The waits between them add up to eight minutes or so."""
FIRST_WAIT = timedelta(seconds=5)
LONGEST_WAIT = timedelta(minutes=5)
"""Waits grow threefold from the first, up to this: 5 s, 15 s, 45 s, 2 min, 5 min."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """An item that is this worker's until its lease ends."""

    id: int
    attempt: int
    job_id: UUID
    uri: str
    etag: str
    alone: bool
    vocabulary_id: UUID
    """Its own, or its job's."""
    recipe_id: UUID
    instance: str | None = None
    """Of Label Studio, where the picture is a task's."""
    task: int | None = None
    """In whose name it is fetched there."""
    lane: int = LANES[Lane.BULK]

    @property
    def interactive(self) -> bool:
        """Somebody waits for it."""
        return self.lane == LANES[Lane.INTERACTIVE]


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt that came to a result."""

    item: Claimed
    result_id: UUID
    reused: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt that met an error."""

    item: Claimed
    code: str
    detail: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Reaped:
    """What `reap` brought back or gave up: numbers of items."""

    requeued: int
    dead: int


_CLAIM = text("""
    WITH next AS (
        SELECT id, alone, lane, not_before FROM item
        WHERE state = 'queued' AND not_before <= now()
        ORDER BY lane, not_before, id LIMIT :limit
        FOR UPDATE SKIP LOCKED
    ), placed AS (
        SELECT id, alone, row_number() OVER (ORDER BY lane, not_before, id) AS place FROM next
    ), chosen AS (
        -- A suspect goes alone: as the first it goes without the others, further back it waits to be the first.
        SELECT id FROM placed
        WHERE CASE WHEN (SELECT alone FROM placed WHERE place = 1) THEN place = 1 AND NOT :company ELSE NOT alone END
    )
    UPDATE item
    SET state = 'running', attempt = attempt + 1, worker = :worker,
        leased_until = now() + make_interval(secs => :lease), error_code = NULL, error_detail = NULL
    FROM chosen, job
    WHERE item.id = chosen.id AND job.id = item.job_id
    RETURNING item.id, item.attempt, item.job_id, item.uri, item.etag, item.alone,
        coalesce(item.vocabulary_id, job.vocabulary_id), job.recipe_id,
        CASE job.kind WHEN 'label_studio' THEN job.source ->> 'instance' END, item.task, item.lane
""")

_FENCE = text("""
    SELECT item.id FROM item JOIN unnest(CAST(:ids AS bigint[]), CAST(:attempts AS int[])) AS mine(id, attempt)
        ON item.id = mine.id AND item.attempt = mine.attempt
    WHERE item.worker = :worker AND item.state = 'running'
    ORDER BY item.id FOR UPDATE OF item
""")

_FINISH = text("""
    UPDATE item
    SET state = 'done', result_id = mine.result_id, reused = mine.reused, finished_at = now(), leased_until = NULL
    FROM unnest(CAST(:ids AS bigint[]), CAST(:attempts AS int[]), CAST(:results AS uuid[]), CAST(:reused AS bool[]))
        AS mine(id, attempt, result_id, reused)
    WHERE item.id = mine.id AND item.attempt = mine.attempt AND item.worker = :worker AND item.state = 'running'
    RETURNING item.id
""")

_FAIL = text("""
    UPDATE item
    SET failures = failures + CAST(mine.retryable AS int),
        state = CASE WHEN mine.retryable AND failures + 1 < :max_failures THEN 'queued' ELSE 'failed' END,
        -- The spread keeps a thousand items from coming back in one second.
        not_before = CASE WHEN mine.retryable
            THEN now() + least(:longest, :first * power(3, failures)) * (0.75 + 0.5 * random()) ELSE not_before END,
        finished_at = CASE WHEN mine.retryable AND failures + 1 < :max_failures THEN NULL ELSE now() END,
        error_code = mine.code, error_detail = mine.detail, leased_until = NULL, worker = NULL
    FROM unnest(CAST(:ids AS bigint[]), CAST(:attempts AS int[]), CAST(:codes AS text[]), CAST(:details AS text[]),
                CAST(:retryable AS bool[])) AS mine(id, attempt, code, detail, retryable)
    WHERE item.id = mine.id AND item.attempt = mine.attempt AND item.worker = :worker AND item.state = 'running'
    RETURNING item.id
""")

_HAND_BACK = text("""
    UPDATE item
    SET state = 'queued', attempt = item.attempt - 1, worker = NULL, leased_until = NULL,
        not_before = CASE WHEN :seconds > 0 THEN now() + make_interval(secs => :seconds) ELSE not_before END
    FROM unnest(CAST(:ids AS bigint[]), CAST(:attempts AS int[])) AS mine(id, attempt)
    WHERE item.id = mine.id AND item.attempt = mine.attempt AND item.worker = :worker AND item.state = 'running'
    RETURNING item.id
""")

_EXTEND = text("""
    UPDATE item SET leased_until = now() + make_interval(secs => :lease)
    WHERE id = ANY(CAST(:ids AS bigint[]))
""")

_REAP = text("""
    UPDATE item
    SET lost = lost + 1, alone = true, worker = NULL, leased_until = NULL,
        state = CASE WHEN lost + 1 < :max_lost THEN 'queued' ELSE 'dead' END,
        finished_at = CASE WHEN lost + 1 < :max_lost THEN NULL ELSE now() END,
        error_code = CASE WHEN lost + 1 < :max_lost THEN NULL ELSE 'lost_worker' END,
        error_detail = CASE WHEN lost + 1 < :max_lost THEN NULL
            ELSE 'the worker died or fell silent each of the ' || (lost + 1) || ' times this picture was tried, '
                 'the last times with no other picture beside it' END
    WHERE id IN (
        SELECT id FROM item WHERE state = 'running' AND leased_until < now()
        ORDER BY leased_until LIMIT 5000 FOR UPDATE SKIP LOCKED
    )
    RETURNING state
""")


def claim(session: Session, worker: str, *, limit: int, lease: timedelta, company: bool = False) -> list[Claimed]:
    """Up to `limit` queued items, interactive ones first, now this worker's. The attempt is counted before the work, so
    that a killer counts itself. An item that was in hand when a worker died comes alone; to a worker that has others in
    hand (`company`) nothing is given while such a one is the next, so that it comes to an empty hand soon.
    """
    given = {"limit": limit, "worker": worker, "lease": lease.total_seconds(), "company": company}
    rows = session.execute(_CLAIM, given)
    return sorted((Claimed(*row) for row in rows), key=lambda item: item.id)


def fence(session: Session, worker: str, items: Collection[Claimed]) -> set[int]:
    """Ids of those that are still this worker's attempt, locked until the transaction ends. In the order of ids, as
    everywhere, so that a heartbeat, a commit and a cancel wait for each other and do not deadlock.
    """
    return set(session.scalars(_FENCE, _mine(worker, items)))


def finish(session: Session, worker: str, ended: Sequence[Ended]) -> set[int]:
    """Done, and owed to Label Studio where tasks of it ask for them; ids of those that were still this worker's. The
    others' results are not linked by it.
    """
    if not ended:
        return set()
    mine = _mine(worker, [one.item for one in ended])
    mine |= {"results": [one.result_id for one in ended], "reused": [one.reused for one in ended]}
    done = set(session.scalars(_FINISH, mine))
    # A statement of its own: it sees the tasks of an `ask` that the one before may have had to wait for.
    outbox.owe(session, [one.item.id for one in ended if one.item.id in done and one.item.instance is not None])
    return done


def fail(session: Session, worker: str, failed: Sequence[Failed]) -> set[int]:
    """Failed, or queued again after a wait where the error may pass by itself; ids of those that were still ours."""
    if not failed:
        return set()
    mine = _mine(worker, [one.item for one in failed])
    mine |= {
        "codes": [one.code for one in failed],
        "details": [storable(one.detail) for one in failed],
        "retryable": [one.retryable for one in failed],
        "max_failures": MAX_FAILURES,
        "first": FIRST_WAIT,
        "longest": LONGEST_WAIT,
    }
    return set(session.scalars(_FAIL, mine))


def hand_back(session: Session, worker: str, items: Collection[Claimed], *, wait: timedelta = timedelta(0)) -> set[int]:
    """Queued again, as if never claimed: a worker that shuts down, or whose picture another one computes right now."""
    if not items:
        return set()
    fence(session, worker, items)
    return set(session.scalars(_HAND_BACK, _mine(worker, items) | {"seconds": wait.total_seconds()}))


def extend(session: Session, worker: str, items: Collection[Claimed], lease: timedelta) -> set[int]:
    """The heartbeat: ids whose lease now runs from here. The others were reaped or cancelled: drop them."""
    ours = fence(session, worker, items) if items else set()
    if ours:
        session.execute(_EXTEND, {"ids": sorted(ours), "lease": lease.total_seconds()})
    return ours


def reap(session: Session) -> Reaped:
    """Items of silent workers: queued again, to go alone, or dead where it was the third time."""
    states = list(session.scalars(_REAP, {"max_lost": MAX_LOST}))
    return Reaped(requeued=states.count("queued"), dead=states.count("dead"))


def waiting(session: Session) -> bool:
    """Whether a worker would find something to claim."""
    query = text("SELECT EXISTS (SELECT 1 FROM item WHERE state = 'queued' AND not_before <= now())")
    return bool(session.scalar(query))


def storable(detail: str) -> str:
    """A message that Postgres can hold and people read: no NUL, at most 2,000 characters."""
    return detail.replace("\0", "\\0")[:2000]


def _mine(worker: str, items: Collection[Claimed]) -> dict[str, object]:
    return {"worker": worker, "ids": [one.id for one in items], "attempts": [one.attempt for one in items]}
