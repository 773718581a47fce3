"""The service at a glance, for its gauges: cheap questions, asked every few seconds."""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from db.models import LANES, Lane


@dataclass(frozen=True)
class Depth:
    """Items of one state in one lane."""

    state: str
    lane: Lane
    items: int


def depths(session: Session) -> list[Depth]:
    """Items that wait and items in hand; no others, which are as many as there ever were."""
    rows = session.execute(
        text("""
            SELECT 'queued' AS state, lane, count(*) FROM item WHERE state = 'queued' GROUP BY lane
            UNION ALL
            SELECT 'running', lane, count(*) FROM item WHERE state = 'running' GROUP BY lane
        """)
    )
    known = {(state, lane): count for state, lane, count in rows}
    return [Depth(state, lane, known.get((state, LANES[lane]), 0)) for state in ("queued", "running") for lane in Lane]


def oldest_wait(session: Session) -> float:
    """Seconds for which the item that is next in its lane could have been claimed; 0 where none waits. It grows where
    workers live and do nothing, which no sign of life of theirs would show.
    """
    seconds = session.scalar(
        text("""
            SELECT max(extract(epoch FROM now() - greatest(head.created_at, head.not_before)))
            FROM unnest(ARRAY[0, 1]) AS lanes(lane) CROSS JOIN LATERAL (
                SELECT created_at, not_before FROM item
                WHERE state = 'queued' AND item.lane = lanes.lane AND not_before <= now()
                ORDER BY item.lane, not_before, id LIMIT 1
            ) AS head
        """)
    )
    return max(0.0, float(seconds or 0.0))
