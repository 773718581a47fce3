"""What nobody else would notice: silent workers, jobs that have ended, work without a bell."""

from dataclasses import dataclass

from sqlalchemy import Engine

from car.model_version import CODE_VERSION
from db import items, jobs, listings, results, workers
from db.session import transaction


@dataclass(frozen=True)
class Reaping:
    """What a look found and did."""

    requeued: int
    dead: int
    closed: int
    items_wait: bool
    sources_wait: bool


def reap(engine: Engine) -> Reaping:
    """One look. Any number of processes may look at once."""
    with transaction(engine) as session:
        reaped = items.reap(session)
        results.expire(session)
        closed = jobs.close(session)
        workers.forget(session)
        workers.reaped(session, CODE_VERSION)
        return Reaping(reaped.requeued, reaped.dead, closed, items.waiting(session), listings.waiting(session))
