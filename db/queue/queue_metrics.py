"""Queue metrics: cheap queries that the API runs every few seconds for its gauges."""

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
    """Count queued and running items. Others are not counted: their number grows without limit."""
    rows = session.execute(
        text("""
            SELECT 'queued' AS state, priority, count(*) FROM item WHERE state = 'queued' GROUP BY priority
            UNION ALL
            SELECT 'running', priority, count(*) FROM item WHERE state = 'running' GROUP BY priority
        """)
    )
    counts = {(state, priority): count for state, priority, count in rows}
    return [
        Depth(state, priority, counts.get((state, order), 0))
        for state in ("queued", "running")
        for priority, order in PRIORITY_ORDER.items()
    ]


def oldest_wait(session: Session) -> float:
    """Return for how many seconds the next item of any priority has been available; 0 without one. It grows when
    workers send heartbeats but claim nothing.
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
