"""What nobody else would notice: silent workers, jobs that have ended, work without a bell."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Engine

from car.model_version import CODE_VERSION
from db.label_studio import feedback, outbox, project_sync
from db.queue import items, jobs, listings, workers
from db.results import store as result_store
from db.session import transaction


@dataclass(frozen=True)
class MaintenanceReport:
    """What a look found and did."""

    requeued: int
    dead: int
    closed: int
    items_wait: bool
    sources_wait: bool
    predictions_wait: bool = False
    syncs_wait: bool = False
    annotations_wait: bool = False


def run_maintenance(
    engine: Engine, *, instance: str | None = None, sync_every: timedelta | None = None
) -> MaintenanceReport:
    """One look. Any number of processes may look at once. `instance`: the Label Studio that may be written to, whose
    projects are looked at again every so often, where `sync_every` says so.
    """
    with transaction(engine) as session:
        reclaimed = items.reclaim_expired(session)
        result_store.expire(session)
        closed = jobs.close(session)
        workers.forget(session)
        outbox.forget_documents(session)
        workers.reaped(session, CODE_VERSION)
        if instance is not None and sync_every:
            project_sync.request_all(session, instance=instance, every=sync_every)
        return MaintenanceReport(
            reclaimed.requeued,
            reclaimed.dead,
            closed,
            items_wait=items.waiting(session),
            sources_wait=listings.waiting(session),
            predictions_wait=outbox.waiting(session, instance)
            or (instance is not None and outbox.checks_waiting(session, instance)),
            syncs_wait=instance is not None and project_sync.waiting(session, instance=instance),
            annotations_wait=feedback.waiting(session),
        )
