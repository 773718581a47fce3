"""The outbox to Label Studio: each prediction is rendered, then reaches it once, by one of two ways.

(finish, ask) ──> pending ──claim──> pending, leased ──sent──> sent           written back by a publisher
                   │ ^  ^              │  ├──failed────────> failed
                   │ │  └──later───────┤  └──orphaned──────> orphaned        its task was deleted there
                   │ │     rendered ───┘
                   │ └──(asked for again later than JUST_NOW)── sent          it was deleted there
                   └──taken as an answer to /predict──> sent ─┐                db.tasks.ask
                                                         ^────┘ answered again
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from db import models
from db.items import storable
from db.outbox import SUPERSEDED
from db.second_looks import DOUBTFUL

JUST_NOW = timedelta(seconds=120)
"""Longer than Label Studio's /predict lasts: it chose its tasks before, so it cannot know what was sent since."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A prediction that is this worker's until its lease ends."""

    id: int
    attempt: int
    """From the second on, ask Label Studio first whether it has a prediction of this version for the task."""
    instance: str
    project: int
    task: int
    model_version: str
    result_id: UUID
    run_key: str
    masks_key: str
    document: str | None
    label_config: str
    extra_params: dict[str, Any]
    failures: int = 0
    """Times it went back to wait after an error: waits grow by it."""
    replaces: int | None = None
    """Label Studio's id of a prediction of this version with another result: delete it first (404 is fine)."""


_IN_ORDER = "ORDER BY prediction.instance, prediction.project, prediction.task, prediction.model_version"
"""Of the unique key: in it whoever locks several rows locks them."""
_FREE = "(prediction.leased_until IS NULL OR prediction.leased_until < now())"
_DUE = f"prediction.state = 'pending' AND prediction.not_before <= now() AND {_FREE}"
_MINE = "prediction.worker = :worker AND prediction.state = 'pending'"
_LET_GO = "worker = NULL, leased_until = NULL"

# Two looks, each along an index of its own: what waits for Label Studio to ask is not to be waded through.
_CHOOSE = text(f"""
    WITH unrendered AS (
        SELECT id, not_before FROM prediction WHERE {_DUE} AND document IS NULL
        ORDER BY not_before, id LIMIT :limit FOR UPDATE SKIP LOCKED
    ), to_send AS (
        SELECT id, not_before FROM prediction WHERE {_DUE} AND instance = CAST(:instance AS text)
        ORDER BY not_before, id LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    SELECT id FROM (SELECT * FROM unrendered UNION SELECT * FROM to_send) AS due ORDER BY not_before, id LIMIT :limit
""")  # noqa: S608 - made of its own constants

# Of the present words and regions, and of the picture that the task has now.
_LIVE = text("""
    SELECT prediction.id FROM prediction
    JOIN project ON project.instance = prediction.instance AND project.number = prediction.project
    JOIN task ON task.job_id = project.job_id AND task.task = prediction.task
    JOIN item ON item.id = task.item_id AND item.result_id = prediction.result_id
    WHERE prediction.id = ANY(CAST(:ids AS bigint[]))
        AND right(prediction.model_version, 17) = left(project.words, 8) || '.' || left(project.regions, 8)
""")

# What may have reached Label Studio is kept in mind, so that it is looked for there before it is sent again.
_UNTRIED = "prediction.attempt = 0 AND prediction.prediction IS NULL"
_DELETE = text(f"DELETE FROM prediction WHERE id = ANY(CAST(:ids AS bigint[])) AND {_UNTRIED}")  # noqa: S608
_SUPERSEDE = text(f"""
    UPDATE prediction
    SET state = 'failed', error_code = '{SUPERSEDED}', error_detail = 'the project asks for something else by now',
        document = NULL, {_LET_GO}
    WHERE id = ANY(CAST(:ids AS bigint[])) AND NOT ({_UNTRIED})
""")  # noqa: S608

_CLAIM = text(f"""
    UPDATE prediction
    SET attempt = attempt + 1, worker = :worker, leased_until = now() + make_interval(secs => :lease),
        attempted_at = CASE WHEN prediction.instance = CAST(:instance AS text) THEN now() ELSE attempted_at END,
        look_at = CASE WHEN attempted_at IS NULL THEN look_at ELSE {DOUBTFUL} END,
        looks = CASE WHEN attempted_at IS NULL THEN looks ELSE 0 END
    FROM result, project
    WHERE prediction.id = ANY(CAST(:ids AS bigint[])) AND result.id = prediction.result_id
        AND project.instance = prediction.instance AND project.number = prediction.project
    RETURNING prediction.id, prediction.attempt, prediction.instance, prediction.project, prediction.task,
        prediction.model_version, prediction.result_id, result.run_key, result.masks_key, prediction.document,
        project.label_config, project.extra_params, prediction.failures, prediction.prediction
""")  # noqa: S608

_RENDERED = text(f"""
    WITH mine AS (
        SELECT prediction.id, made.document, made.score FROM prediction
        JOIN unnest(CAST(:ids AS bigint[]), CAST(:attempts AS int[]), CAST(:documents AS text[]),
                    CAST(:scores AS double precision[])) AS made(id, attempt, document, score)
            ON made.id = prediction.id AND made.attempt = prediction.attempt
        WHERE {_MINE} {_IN_ORDER} FOR UPDATE OF prediction
    )
    UPDATE prediction
    SET document = mine.document, score = mine.score,
        worker = CASE WHEN CAST(:keep AS bool) THEN worker END,
        leased_until = CASE WHEN CAST(:keep AS bool) THEN leased_until END
    FROM mine WHERE prediction.id = mine.id RETURNING prediction.id
""")  # noqa: S608


def _several(change: str) -> TextClause:
    """Of rows that are still this worker's attempt."""
    return text(f"""
        WITH mine AS (
            SELECT prediction.id FROM prediction
            JOIN unnest(CAST(:ids AS bigint[]), CAST(:attempts AS int[])) AS held(id, attempt)
                ON held.id = prediction.id AND held.attempt = prediction.attempt
            WHERE {_MINE} {_IN_ORDER} FOR UPDATE OF prediction
        )
        UPDATE prediction SET {change} FROM mine WHERE prediction.id = mine.id RETURNING prediction.id
    """)  # noqa: S608


def _one(change: str) -> TextClause:
    """Of a row that is still this worker's attempt."""
    return text(
        f"UPDATE prediction SET {change}, {_LET_GO} "  # noqa: S608
        f"WHERE id = :id AND attempt = :attempt AND {_MINE} RETURNING id"
    )


_NO_ERROR = "error_code = NULL, error_detail = NULL"
_SENT = _one(f"state = 'sent', prediction = :prediction, sent_at = now(), document = NULL, failures = 0, {_NO_ERROR}")
_LATER = _one("failures = failures + 1, not_before = now() + :wait, error_code = :code, error_detail = :detail")
_FAILED = _one("state = 'failed', document = NULL, error_code = :code, error_detail = :detail")
_ORPHANED = _one(f"state = 'orphaned', prediction = NULL, document = NULL, {_NO_ERROR}")
# The time of an earlier attempt stands: it may be one that reached Label Studio.
_HAND_BACK = _several(f"attempt = attempt - 1, attempted_at = CASE WHEN attempt > 1 THEN attempted_at END, {_LET_GO}")
_EXTEND = _several("leased_until = now() + make_interval(secs => :lease)")
_WAITING = text(f"""
    SELECT EXISTS (SELECT 1 FROM prediction WHERE {_DUE} AND document IS NULL)
        OR EXISTS (SELECT 1 FROM prediction WHERE {_DUE} AND instance = CAST(:instance AS text))
""")  # noqa: S608
_RETRY = text(f"""
    WITH unsent AS (
        SELECT id FROM prediction
        WHERE instance = :instance AND project = :project AND {_FREE}
            AND (state = 'failed' AND error_code IS DISTINCT FROM '{SUPERSEDED}' OR state = 'pending' AND failures > 0)
        {_IN_ORDER} FOR UPDATE SKIP LOCKED
    )
    UPDATE prediction SET state = 'pending', document = NULL, failures = 0, not_before = now(), {_NO_ERROR}
    FROM unsent WHERE prediction.id = unsent.id RETURNING 1
""")  # noqa: S608


def claim(session: Session, worker: str, *, limit: int, lease: timedelta, instance: str | None) -> list[Outgoing]:
    """Up to `limit` predictions, now this worker's. The attempt is counted before the work. Rows without a document
    come whosoever they are; those with one only where they are of `instance`, the one that may be written to (None:
    none is). What the project's present configuration does not ask for any more is dropped on the way.
    """
    while True:
        chosen = set(session.scalars(_CHOOSE, {"limit": limit, "instance": instance}))
        live = set(session.scalars(_LIVE, {"ids": sorted(chosen)})) if chosen else set()
        for drop in (_DELETE, _SUPERSEDE) if chosen - live else ():
            session.execute(drop, {"ids": sorted(chosen - live)})
        if live or not chosen:
            break
    given = {"ids": sorted(live), "worker": worker, "lease": lease.total_seconds(), "instance": instance}
    rows = session.execute(_CLAIM, given) if live else ()
    return sorted((Outgoing(*row) for row in rows), key=lambda one: one.id)


def rendered(session: Session, worker: str, made: Sequence[tuple[Outgoing, str, float]], *, keep: bool) -> set[int]:
    """Documents as JSON text, with their scores; ids of those that were still this worker's. `keep`: they go on to be
    sent; otherwise they are free for whoever comes first.
    """
    given = _held(worker, [one for one, _, _ in made]) | {"keep": keep}
    given |= {"documents": [document for _, document, _ in made], "scores": [score for _, _, score in made]}
    return set(session.scalars(_RENDERED, given))


def sent(session: Session, worker: str, outgoing: Outgoing, prediction_id: int) -> bool:
    """Label Studio has it, as `prediction_id`. False where it is not this worker's any more: delete it there again."""
    return _settle(session, _SENT, worker, outgoing, prediction=prediction_id)


def later(session: Session, worker: str, outgoing: Outgoing, *, code: str, detail: str, wait: timedelta) -> bool:
    """An error that may pass by itself: not before `wait` from now."""
    return _settle(session, _LATER, worker, outgoing, code=code, detail=storable(detail), wait=wait)


def failed(session: Session, worker: str, outgoing: Outgoing, *, code: str, detail: str) -> bool:
    """It will never be accepted."""
    return _settle(session, _FAILED, worker, outgoing, code=code, detail=storable(detail))


def orphaned(session: Session, worker: str, outgoing: Outgoing) -> bool:
    """Its task is not in Label Studio any more."""
    return _settle(session, _ORPHANED, worker, outgoing)


def hand_back(session: Session, worker: str, outgoing: Collection[Outgoing]) -> set[int]:
    """As if never claimed: of a worker that stops before it sent them."""
    return set(session.scalars(_HAND_BACK, _held(worker, outgoing)))


def extend(session: Session, worker: str, outgoing: Collection[Outgoing], lease: timedelta) -> set[int]:
    """The heartbeat: ids whose lease now runs from here. The others are not this worker's any more."""
    return set(session.scalars(_EXTEND, _held(worker, outgoing) | {"lease": lease.total_seconds()}))


def waiting(session: Session, instance: str | None) -> bool:
    """Whether a publisher that may write to `instance` would find something to claim."""
    return bool(session.scalar(_WAITING, {"instance": instance}))


def retry(session: Session, project: models.Project) -> int:
    """Failed predictions of a project once more, rendered anew, and those that wait after an error now; how many."""
    return len(session.execute(_RETRY, {"instance": project.instance, "project": project.number}).all())


def _settle(session: Session, change: TextClause, worker: str, outgoing: Outgoing, **values: object) -> bool:
    held = {"id": outgoing.id, "attempt": outgoing.attempt, "worker": worker}
    return session.execute(change, values | held).one_or_none() is not None


def _held(worker: str, outgoing: Collection[Outgoing]) -> dict[str, object]:
    return {"worker": worker, "ids": [one.id for one in outgoing], "attempts": [one.attempt for one in outgoing]}
