"""What nobody else would notice: silent workers, jobs that have ended, work without a bell."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Engine

from car.model_version import CODE_VERSION
from db import answers, feedback, items, jobs, listings, predictions, projects, results, second_looks, workers
from db.session import transaction


@dataclass(frozen=True)
class Reaping:
    """What a look found and did."""

    requeued: int
    dead: int
    closed: int
    items_wait: bool
    sources_wait: bool
    predictions_wait: bool = False
    syncs_wait: bool = False
    annotations_wait: bool = False


def reap(engine: Engine, *, instance: str | None = None, sync_every: timedelta | None = None) -> Reaping:
    """One look. Any number of processes may look at once. `instance`: the Label Studio that may be written to, whose
    projects are looked at again every so often, where `sync_every` says so.
    """
    with transaction(engine) as session:
        reaped = items.reap(session)
        results.expire(session)
        closed = jobs.close(session)
        workers.forget(session)
        answers.forget(session)
        workers.reaped(session, CODE_VERSION)
        if instance is not None and sync_every:
            projects.want_all(session, instance=instance, every=sync_every)
        return Reaping(
            reaped.requeued,
            reaped.dead,
            closed,
            items_wait=items.waiting(session),
            sources_wait=listings.waiting(session),
            predictions_wait=predictions.waiting(session, instance)
            or (instance is not None and second_looks.waiting(session, instance)),
            syncs_wait=instance is not None and projects.sync_waiting(session, instance=instance),
            annotations_wait=feedback.waiting(session),
        )
