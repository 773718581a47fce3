"""Predictions that may have come to Label Studio twice: looked for there again, after everyone's leases.

A sender that is frozen past its lease takes its double back when it wakes, unless it is killed just then; and a POST
whose sender is dead may be stored long after another one was. Neither leaves a trace here but one: somebody had taken
the row to be sent when somebody else did so too.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.orm import Session

AFTER: Final = (timedelta(minutes=10), timedelta(hours=1), timedelta(days=1))
"""From when a row is taken once more to the first look, and from each look to the next."""

DOUBTFUL: Final = f"now() + interval '{AFTER[0].total_seconds():.0f} seconds'"
"""SQL of `look_at` for a row that somebody else may have sent as well; `looks` begins at 0 with it."""


@dataclass(frozen=True, slots=True)
class Doubtful:
    """A prediction that was sent, to be looked for in Label Studio."""

    id: int
    project: int
    task: int
    model_version: str
    prediction: int | None
    """Label Studio's id as it is known here; none where it was the answer to /predict."""


_DUE = "state = 'sent' AND instance = CAST(:instance AS text) AND look_at <= now()"
_CLAIM = text(f"""
    WITH due AS MATERIALIZED (
        SELECT id FROM prediction WHERE {_DUE} ORDER BY look_at, id LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    UPDATE prediction SET looks = looks + 1, look_at = now() + (CAST(:waits AS interval[]))[looks + 1]
    FROM due WHERE prediction.id = due.id
    RETURNING prediction.id, project, task, model_version, prediction
""")  # noqa: S608 - made of its own constants
_WAITING = text(f"SELECT EXISTS (SELECT 1 FROM prediction WHERE {_DUE})")  # noqa: S608
_KEPT = text("""
    UPDATE prediction SET prediction = :found WHERE id = :id AND state = 'sent' AND prediction = :known
""")


def claim(session: Session, instance: str, *, limit: int) -> list[Doubtful]:
    """Up to `limit` that are due. The look counts before it is taken: one that comes to nothing is made up for by the
    next, later.
    """
    given = {"instance": instance, "limit": limit, "waits": list(AFTER[1:])}
    return [Doubtful(*row) for row in session.execute(_CLAIM, given)]


def waiting(session: Session, instance: str) -> bool:
    return bool(session.scalar(_WAITING, {"instance": instance}))


def kept(session: Session, one: Doubtful, found: int) -> None:
    """Of several, `found` stays in Label Studio: it is the one that is known from now on."""
    if one.prediction is not None:
        session.execute(_KEPT, {"id": one.id, "known": one.prediction, "found": found})
