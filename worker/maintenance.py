"""Periodic maintenance: reclaim expired leases, close finished jobs, and find work that waits without a message."""

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
    """What one run did (counts of items and jobs), and which kinds of work wait."""

    requeued: int
    dead: int
    closed: int
    has_items: bool
    has_sources: bool
    has_predictions: bool = False
    has_syncs: bool = False
    has_annotations: bool = False


def run_maintenance(
    engine: Engine, *, instance: str | None = None, sync_every: timedelta | None = None
) -> MaintenanceReport:
    """Run once, in one transaction; processes may run it at the same time.

    `instance` is the Label Studio that may be written to; its projects are synced every `sync_every`, if given.
    """
    with transaction(engine) as session:
        reclaimed = items.reclaim_expired(session)
        result_store.expire(session)
        closed = jobs.close(session)
        workers.forget(session)
        outbox.forget_documents(session)
        workers.record_maintenance(session, CODE_VERSION)
        if instance is not None and sync_every:
            project_sync.request_all(session, instance=instance, interval=sync_every)
        return MaintenanceReport(
            reclaimed.requeued,
            reclaimed.dead,
            closed,
            has_items=items.waiting(session),
            has_sources=listings.waiting(session),
            has_predictions=outbox.waiting(session, instance)
            or (instance is not None and outbox.checks_waiting(session, instance)),
            has_syncs=instance is not None and project_sync.waiting(session, instance=instance),
            has_annotations=feedback.waiting(session),
        )
