"""Celery's entry points: each looks into the database for what there is to do. Models are loaded in the child process.

`configure` is called in the parent before it forks; nothing here touches a device, a database or the environment before
`worker_process_init`.
"""

import importlib
import os
import signal
import socket
import threading
import time
from collections.abc import Collection
from ctypes import c_bool
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from multiprocessing.sharedctypes import RawValue
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import structlog
from celery import current_app, shared_task
from celery.signals import worker_process_init, worker_process_shutdown, worker_shutting_down
from sqlalchemy import Engine

from car.errors import CarError
from car.model_version import CODE_VERSION
from db.label_studio import outbox
from db.objects import ObjectStore
from db.queue import workers
from db.schema import require_current
from db.session import make_engine, transaction
from worker.celery_app import Queue, TaskName, notify
from worker.label_studio import LabelStudio
from worker.label_studio.feedback import process_annotations
from worker.label_studio.publish import Publisher
from worker.label_studio.sync import ProjectSync
from worker.listing import list_sources
from worker.maintenance import run_maintenance as reap_once
from worker.models.model_paths import ModelPaths
from worker.settings import WorkerSettings

if TYPE_CHECKING:
    from worker.pipeline.pipeline import Pipeline

_LISTING_SECONDS = 60.0
_PUBLISHING_SECONDS = 60.0
_GPU_LIMIT = 1800
"""Seconds: above CAR_SLICE_SECONDS by what a hanging batch may take. The child is killed and its leases run out."""
_IO_LIMIT = 600
_PRESENCE_SECONDS = 15.0


@dataclass(frozen=True)
class WorkerConfig:
    """What the parent decided before it forked."""

    settings: WorkerSettings
    queues: tuple[Queue, ...]
    models: ModelPaths | None
    """None: those that each recipe names."""


@dataclass
class WorkerProcess:
    """What a child process keeps between tasks."""

    config: WorkerConfig
    name: str
    engine: Engine
    objects: ObjectStore
    pipeline: "Pipeline | None" = None
    publisher: Publisher | None = None
    syncing: ProjectSync | None = None
    """None where no Label Studio may be asked, as where this process serves another queue."""


_stopping = RawValue(c_bool, False)
"""Set in the parent, seen by its children: they begin nothing more. An Event would wait for those of them that were
killed while they waited for it.
"""
_plan: list[WorkerConfig] = []
_process: list[WorkerProcess] = []


def configure(plan: WorkerConfig) -> None:
    """For the processes that are forked from here on."""
    _plan[:] = [plan]


def preload_modules(queues: Collection[Queue]) -> None:
    """Import the models' code in the parent, so that a child that takes a dead one's place has it at once. Nothing of
    it asks for a device: CUDA that was begun before a fork is lost to the child.
    """
    if Queue.GPU in queues:
        # torch then asks the driver's NVML whether there is CUDA, which begins nothing.
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
        importlib.import_module("worker.bootstrap")


def _told_to_stop() -> bool:
    return bool(_stopping.value)


def current_process() -> WorkerProcess:
    """What this child keeps; made when it began."""
    return _process[0]


@shared_task(name=str(TaskName.SEGMENT), acks_late=True, ignore_result=True, time_limit=_GPU_LIMIT)
def segment() -> None:
    """Segment what is queued, for a slice of time."""
    process = current_process()
    if process.pipeline is None or _told_to_stop():
        return
    drained = process.pipeline.run_until_idle(
        stop=_told_to_stop,
        seconds=process.config.settings.slice_seconds,
        on_backlog=partial(notify, current_app, TaskName.SEGMENT),  # for a neighbour that sleeps
    )
    structlog.get_logger().info("drained", **vars(drained))
    if drained.has_more and not _told_to_stop():
        notify(current_app, TaskName.SEGMENT)
    with transaction(process.engine) as session:
        owed = outbox.waiting(session, _instance(process.config.settings))
    if owed:
        notify(current_app, TaskName.PUBLISH)


@shared_task(name=str(TaskName.LIST), acks_late=True, ignore_result=True, time_limit=_IO_LIMIT)
def list_() -> None:
    """List the sources of new jobs, for a while."""
    process = current_process()
    bell = partial(notify, current_app, TaskName.SEGMENT)
    listed = list_sources(
        process.engine, process.objects, process.name, stop=_told_to_stop, seconds=_LISTING_SECONDS, found=bell
    )
    if listed.has_more:
        notify(current_app, TaskName.LIST)


@shared_task(name=str(TaskName.FEEDBACK), acks_late=True, ignore_result=True, time_limit=_IO_LIMIT)
def feedback() -> None:
    """Compare what annotators drew with what was predicted, for a while."""
    process = current_process()
    done = process_annotations(
        process.engine,
        process.objects,
        process.name,
        preset=process.config.settings.preset,
        stop=_told_to_stop,
        seconds=_LISTING_SECONDS,
    )
    if done.has_more and not _told_to_stop():
        notify(current_app, TaskName.FEEDBACK)


@shared_task(name=str(TaskName.PUBLISH), acks_late=True, ignore_result=True, time_limit=_IO_LIMIT)
def publish() -> None:
    """Render predictions and write them back, for a while."""
    process = current_process()
    if process.publisher is None or _told_to_stop():
        return
    published = process.publisher.publish(stop=_told_to_stop, seconds=_PUBLISHING_SECONDS)
    if published.counts:
        structlog.get_logger().info("published", **published.counts)
    if published.has_more:
        notify(current_app, TaskName.PUBLISH)


@shared_task(name=str(TaskName.SYNC), acks_late=True, ignore_result=True, time_limit=_IO_LIMIT)
def sync() -> None:
    """Look at the tasks of Label Studio's projects, for a while."""
    process = current_process()
    if process.syncing is None or _told_to_stop():
        return
    synced = process.syncing.sync(stop=_told_to_stop, seconds=_LISTING_SECONDS)
    if synced.asked:
        structlog.get_logger().info("synced", **vars(synced))
        notify(current_app, TaskName.PUBLISH)
    if synced.has_more:
        notify(current_app, TaskName.SYNC)


@shared_task(name=str(TaskName.REAP), acks_late=True, ignore_result=True, time_limit=_IO_LIMIT)
def reap() -> None:
    """Bring back what silent workers held, and ring for whatever waits."""
    process = current_process()
    settings = process.config.settings
    seen = reap_once(
        process.engine,
        instance=_instance(settings),
        sync_every=timedelta(seconds=settings.sync_seconds),
    )
    if seen.requeued or seen.dead:
        structlog.get_logger().warning("reaped", requeued=seen.requeued, dead=seen.dead)
    for wanted, task in (
        (seen.items_wait, TaskName.SEGMENT),
        (seen.sources_wait, TaskName.LIST),
        (seen.predictions_wait, TaskName.PUBLISH),
        (seen.syncs_wait, TaskName.SYNC),
        (seen.annotations_wait, TaskName.FEEDBACK),
    ):
        if wanted:
            notify(current_app, task)


@worker_process_init.connect
def _begin(**_: Any) -> None:  # noqa: ANN401 - Celery's signals
    """In the child, right after the fork. A child that cannot begin ends its parent, which says why."""
    plan = _plan[0]
    try:
        _process[:] = [_made(plan)]
        threading.Thread(target=_say_so, args=(_process[0],), name="presence", daemon=True).start()
    except CarError as error:
        structlog.get_logger().critical("worker_cannot_start", code=error.code, reason=str(error))
        os.kill(os.getppid(), signal.SIGTERM)


def _say_so(process: WorkerProcess) -> None:
    """Keep the worker's row fresh, busy or idle."""
    while not _told_to_stop():
        time.sleep(_PRESENCE_SECONDS)
        try:
            with transaction(process.engine, durable=False) as session:
                workers.heartbeat(session, _presence(process))
        except CarError as error:
            structlog.get_logger().warning("presence_failed", reason=str(error))


@worker_shutting_down.connect
def _stop(**_: Any) -> None:  # noqa: ANN401
    _stopping.value = True


@worker_process_shutdown.connect
def _end(**_: Any) -> None:  # noqa: ANN401
    for process in _process:
        try:
            with transaction(process.engine) as session:
                workers.deregister(session, process.name)
        except CarError as error:
            structlog.get_logger().warning("farewell_failed", reason=str(error))
        process.engine.dispose()
        if process.pipeline is not None:
            process.pipeline.close()


def _made(plan: WorkerConfig) -> WorkerProcess:
    settings = plan.settings
    engine = make_engine(settings.database_url.get_secret_value(), pool=settings.database_pool)
    require_current(engine)
    objects = ObjectStore.of(settings, connections=settings.fetch_threads + settings.store_threads)
    name = f"{socket.gethostname()}:{os.getpid()}:{token_hex(3)}"
    process = WorkerProcess(plan, name, engine, objects)
    if Queue.GPU in plan.queues:
        from worker.bootstrap import make_pipeline  # noqa: PLC0415 - torch, in the child alone

        process.pipeline = make_pipeline(settings, plan.models, engine, objects, name)
    if Queue.IO in plan.queues:
        _connect(process, settings)
    with transaction(engine) as session:
        workers.heartbeat(session, _presence(process))
    return process


def _connect(process: WorkerProcess, settings: WorkerSettings) -> None:
    """What talks to Label Studio; documents are made without one, too, for /predict to answer with."""
    client = LabelStudio.of(settings, connections=settings.publish_threads + 1)
    process.publisher = Publisher(
        process.engine,
        process.objects,
        client,
        process.name,
        threads=settings.publish_threads,
        preset=settings.preset,
    )
    if client is not None:
        bell = partial(notify, current_app, TaskName.SEGMENT)
        process.syncing = ProjectSync(
            process.engine, process.objects, client, process.name, settings.preset, found=bell
        )


def _instance(settings: WorkerSettings) -> str | None:
    """The Label Studio that may be written to."""
    return settings.label_studio_url if settings.label_studio_api_key else None


def _presence(process: WorkerProcess) -> workers.WorkerInfo:
    if process.pipeline is not None:
        return process.pipeline.presence
    return workers.WorkerInfo(process.name, str(Queue.IO), "none", {}, CODE_VERSION)
