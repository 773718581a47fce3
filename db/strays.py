"""Predictions that reached Label Studio from a worker whose lease had run out: whose are they now?"""

from sqlalchemy import text
from sqlalchemy.orm import Session


def settle(session: Session, row: int, prediction: int) -> bool:
    """`prediction` was stored in Label Studio for a row of the outbox which is not the sender's any more. Whether it is
    one too many, for the sender to delete.

    Where the row is still to be sent, nothing may be deleted: whoever holds it may have found this very prediction and
    taken it for its own. So the row is taken from its holder, who then comes here as well; the next one asks Label
    Studio, and keeps the oldest of what all of them stored.
    """
    reopened = session.execute(
        text(
            "UPDATE prediction SET attempt = attempt + 1, attempted_at = now(), worker = NULL, leased_until = NULL "
            "WHERE id = :id AND state = 'pending' RETURNING 1"
        ),
        {"id": row},
    ).one_or_none()
    if reopened is not None:
        return False
    kept = session.scalar(text("SELECT prediction FROM prediction WHERE id = :id"), {"id": row})
    return bool(kept != prediction)
