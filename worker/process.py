"""A worker process: its configuration, set in the parent before the fork, and what each child keeps between tasks.

Nothing here uses a device, a database or the environment before `worker_process_init`, which runs in the child.
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
from functools import partial
from multiprocessing.sharedctypes import RawValue
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import structlog
from celery import current_app
from celery.signals import worker_process_init, worker_process_shutdown, worker_shutting_down
from sqlalchemy import Engine

from car.errors import CarError
from car.model_version import CODE_VERSION
from car.object_store import ObjectStore
from db.objects import S3ObjectStore
from db.queue import workers
from db.schema import require_current
from db.session import make_engine, transaction
from worker.celery_app import Queue, TaskName, notify
from worker.label_studio import LabelStudio
from worker.label_studio.publish import Publisher
from worker.label_studio.sync import ProjectSync
from worker.models import ModelPaths
from worker.settings import WorkerSettings

if TYPE_CHECKING:
    from worker.pipeline.pipeline import Pipeline

_HEARTBEAT_SECONDS = 15.0


@dataclass(frozen=True)
class WorkerConfig:
    """What the parent sets before it forks."""

    settings: WorkerSettings
    queues: tuple[Queue, ...]
    models: ModelPaths | None
    """None: each recipe names its own models."""


@dataclass
class WorkerProcess:
    """What a child process keeps between tasks."""

    config: WorkerConfig
    name: str
    engine: Engine
    objects: ObjectStore
    pipeline: "Pipeline | None" = None
    """None in a process that does not serve the gpu queue."""
    publisher: Publisher | None = None
    project_sync: ProjectSync | None = None
    """None without a Label Studio token, and in a process that does not serve the io queue."""

    @property
    def instance(self) -> str | None:
        """The Label Studio that this process may write to."""
        settings = self.config.settings
        return settings.label_studio_url if settings.label_studio_api_key else None

    @property
    def info(self) -> workers.WorkerInfo:
        if self.pipeline is not None:
            return self.pipeline.worker_info
        return workers.WorkerInfo(self.name, str(Queue.IO), "none", {}, CODE_VERSION)


_stopping = RawValue(c_bool, False)
"""Set in the parent and read by its children, which then start nothing more. Not an Event: its lock would wait for a
child that was killed while it held it."""
_config: list[WorkerConfig] = []
_process: list[WorkerProcess] = []


def configure(config: WorkerConfig) -> None:
    """Set the configuration of all processes that are forked from now on."""
    _config[:] = [config]


def preload_modules(queues: Collection[Queue]) -> None:
    """Import the models' code in the parent, so that the replacement of a dead child has it at once.

    The import must not start CUDA: a CUDA context that exists before a fork cannot be used in the child.
    """
    if Queue.GPU in queues:
        # With this, torch looks for CUDA through the driver's NVML, which starts no context.
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
        importlib.import_module("worker.bootstrap")


def is_stopping() -> bool:
    return bool(_stopping.value)


def current_process() -> WorkerProcess:
    return _process[0]


@worker_process_init.connect
def _start(**_: Any) -> None:  # noqa: ANN401 - Celery's signals
    """Set up the child after the fork. If that fails, end the parent, which would start it again and again."""
    try:
        _process[:] = [_make_process(_config[0])]
        threading.Thread(target=_send_heartbeats, args=(_process[0],), name="heartbeat", daemon=True).start()
    except CarError as error:
        structlog.get_logger().critical("worker_start_failed", code=error.code, reason=str(error))
        os.kill(os.getppid(), signal.SIGTERM)


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
            structlog.get_logger().warning("deregister_failed", reason=str(error))
        process.engine.dispose()
        if process.pipeline is not None:
            process.pipeline.close()


def _send_heartbeats(process: WorkerProcess) -> None:
    """Keep the worker's row fresh, whether the worker is busy or idle."""
    while not is_stopping():
        time.sleep(_HEARTBEAT_SECONDS)
        try:
            with transaction(process.engine, durable=False) as session:
                workers.heartbeat(session, process.info)
        except CarError as error:
            structlog.get_logger().warning("heartbeat_failed", reason=str(error))


def _make_process(config: WorkerConfig) -> WorkerProcess:
    settings = config.settings
    engine = make_engine(settings.database_url.get_secret_value(), pool=settings.database_pool)
    require_current(engine)
    objects = S3ObjectStore.from_settings(settings, connections=settings.fetch_threads + settings.store_threads)
    name = f"{socket.gethostname()}:{os.getpid()}:{token_hex(3)}"
    process = WorkerProcess(config, name, engine, objects)
    if Queue.GPU in config.queues:
        from worker.bootstrap import make_pipeline  # noqa: PLC0415 - torch, in the child only

        process.pipeline = make_pipeline(settings, config.models, engine, objects, name)
    if Queue.IO in config.queues:
        _connect_label_studio(process, settings)
    with transaction(engine) as session:
        workers.heartbeat(session, process.info)
    return process


def _connect_label_studio(process: WorkerProcess, settings: WorkerSettings) -> None:
    """Set the publisher, which renders predictions for /predict even without a Label Studio, and the project sync."""
    client = LabelStudio.from_settings(settings, connections=settings.publish_threads + 1)
    process.publisher = Publisher(
        process.engine, process.objects, client, process.name, threads=settings.publish_threads, preset=settings.preset
    )
    if client is not None:
        notify_segment = partial(notify, current_app, TaskName.SEGMENT)
        process.project_sync = ProjectSync(
            process.engine, process.objects, client, process.name, settings.preset, on_page=notify_segment
        )
