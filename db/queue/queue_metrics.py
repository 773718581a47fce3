"""The service at a glance, for its gauges: cheap questions, asked every few seconds."""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from db.models import PRIORITY_ORDER, Priority


@dataclass(frozen=True)
class Depth:
    """Items of one state and one priority."""

    state: str
    priority: Priority
    items: int


def depths(session: Session) -> list[Depth]:
    """Items that wait and items in hand; no others, which are as many as there ever were."""
    rows = session.execute(
        text("""
            SELECT 'queued' AS state, priority, count(*) FROM item WHERE state = 'queued' GROUP BY priority
            UNION ALL
            SELECT 'running', priority, count(*) FROM item WHERE state = 'running' GROUP BY priority
        """)
    )
    known = {(state, priority): count for state, priority, count in rows}
    return [
        Depth(state, priority, known.get((state, order), 0))
        for state in ("queued", "running")
        for priority, order in PRIORITY_ORDER.items()
    ]


def oldest_wait(session: Session) -> float:
    """Seconds for which the item that is next of its priority could have been claimed; 0 where none waits. It grows
    where workers live and do nothing, which no sign of life of theirs would show.
    """
    seconds = session.scalar(
        text("""
            SELECT max(extract(epoch FROM now() - greatest(head.created_at, head.available_at)))
            FROM unnest(ARRAY[0, 1]) AS priorities(priority) CROSS JOIN LATERAL (
                SELECT created_at, available_at FROM item
                WHERE state = 'queued' AND item.priority = priorities.priority AND available_at <= now()
                ORDER BY item.priority, available_at, id LIMIT 1
            ) AS head
        """)
    )
    return max(0.0, float(seconds or 0.0))
