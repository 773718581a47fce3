"""Celery's tasks. Each claims its work from the database, for a limited time, and notifies again if work is left."""

from datetime import timedelta
from functools import partial

import structlog
from celery import current_app, shared_task

from db.label_studio import outbox
from db.session import transaction
from worker.celery_app import TaskName, notify
from worker.label_studio.feedback import process_annotations
from worker.listing import list_sources
from worker.maintenance import run_maintenance
from worker.process import current_process, is_stopping

_TASK_SECONDS = 60.0
"""An io task claims nothing more after this time."""
_GPU_LIMIT = 1800
"""Seconds after which Celery kills a child that hangs, above CAR_SLICE_SECONDS; its leases then expire."""
_IO_LIMIT = 600


@shared_task(name=str(TaskName.SEGMENT), time_limit=_GPU_LIMIT)
def segment() -> None:
    """Segment queued items, for CAR_SLICE_SECONDS at most."""
    process = current_process()
    if process.pipeline is None or is_stopping():
        return
    stats = process.pipeline.run_until_idle(
        stop=is_stopping,
        seconds=process.config.settings.slice_seconds,
        on_backlog=partial(notify, current_app, TaskName.SEGMENT),  # for an idle worker
    )
    structlog.get_logger().info("segment_finished", **vars(stats))
    if stats.has_more and not is_stopping():
        notify(current_app, TaskName.SEGMENT)
    with transaction(process.engine) as session:
        has_predictions = outbox.waiting(session, process.instance)
    if has_predictions:
        notify(current_app, TaskName.PUBLISH)


@shared_task(name=str(TaskName.LIST), time_limit=_IO_LIMIT)
def list_() -> None:
    """List the sources of new jobs."""
    process = current_process()
    stats = list_sources(
        process.engine,
        process.objects,
        process.name,
        stop=is_stopping,
        seconds=_TASK_SECONDS,
        on_added=partial(notify, current_app, TaskName.SEGMENT),
    )
    if stats.has_more:
        notify(current_app, TaskName.LIST)


@shared_task(name=str(TaskName.FEEDBACK), time_limit=_IO_LIMIT)
def feedback() -> None:
    """Compare annotations with the predictions they replaced."""
    process = current_process()
    stats = process_annotations(
        process.engine,
        process.objects,
        process.name,
        preset=process.config.settings.preset,
        stop=is_stopping,
        seconds=_TASK_SECONDS,
    )
    if stats.has_more and not is_stopping():
        notify(current_app, TaskName.FEEDBACK)


@shared_task(name=str(TaskName.PUBLISH), time_limit=_IO_LIMIT)
def publish() -> None:
    """Render predictions of the outbox and send them to Label Studio."""
    process = current_process()
    if process.publisher is None or is_stopping():
        return
    published = process.publisher.publish(stop=is_stopping, seconds=_TASK_SECONDS)
    if published.counts:
        structlog.get_logger().info("published", **published.counts)
    if published.has_more:
        notify(current_app, TaskName.PUBLISH)


@shared_task(name=str(TaskName.SYNC), time_limit=_IO_LIMIT)
def sync() -> None:
    """Read the tasks of Label Studio's projects."""
    process = current_process()
    if process.project_sync is None or is_stopping():
        return
    synced = process.project_sync.sync(stop=is_stopping, seconds=_TASK_SECONDS)
    if synced.asked:
        structlog.get_logger().info("synced", **vars(synced))
        notify(current_app, TaskName.PUBLISH)
    if synced.has_more:
        notify(current_app, TaskName.SYNC)


@shared_task(name=str(TaskName.MAINTENANCE), time_limit=_IO_LIMIT)
def maintain() -> None:
    """Reclaim expired leases, and notify for all work that waits."""
    process = current_process()
    report = run_maintenance(
        process.engine, instance=process.instance, sync_every=timedelta(seconds=process.config.settings.sync_seconds)
    )
    if report.requeued or report.dead:
        structlog.get_logger().warning("leases_reclaimed", requeued=report.requeued, dead=report.dead)
    for has_work, task in (
        (report.has_items, TaskName.SEGMENT),
        (report.has_sources, TaskName.LIST),
        (report.has_predictions, TaskName.PUBLISH),
        (report.has_syncs, TaskName.SYNC),
        (report.has_annotations, TaskName.FEEDBACK),
    ):
        if has_work:
            notify(current_app, task)
