"""`car worker`, `car scheduler`, `car migrate`: the processes of an installation, each in the foreground."""

import os
import signal
import sys
from enum import StrEnum
from pathlib import Path
from secrets import token_hex
from typing import Annotated, Any

import typer

from cli.errors import UsageError
from cli.options import Device

_CHILD_SECONDS = 120
"""A child may take so long to load its models before Celery takes it for dead; its own 4 s are for code alone."""


class Queues(StrEnum):
    GPU = "gpu"
    IO = "io"
    ALL = "all"


def worker(
    *,
    queues: Annotated[
        Queues, typer.Option("--queues", help="gpu segments; io lists buckets and brings back what was lost.")
    ] = Queues.ALL,
    device: Annotated[
        Device | None,
        typer.Option("--device", help="Where to compute; by itself as CAR_DEVICE says."),
    ] = None,
) -> None:
    """Work on what is queued, until SIGTERM: then finish or hand back what was begun, within 30 s.

    Where the engines are is read from the environment: DATABASE_URL, CELERY_BROKER_URL, S3_BUCKET and AWS_…; see
    `car env`.
    """
    from celery.signals import setup_logging, worker_process_init

    from car.recipe import Recipe
    from cli.logs import configure_logs
    from cli.model_selection import OPENAI, ModelSelection
    from cli.service.child_launcher import end_with_parent
    from worker import tasks
    from worker.celery_app import Queue, make_celery_app
    from worker.settings import WorkerSettings

    settings = WorkerSettings.from_environment()
    if device:
        settings = settings.model_copy(update={"device": device.value})
    served = tuple(Queue) if queues is Queues.ALL else (Queue(queues),)
    # OpenAI's pairs differ from preset to preset, so each recipe names its own; a folder holds one pair for all.
    models = None if settings.models == OPENAI else ModelSelection(settings.models).paths(Recipe())
    tasks.configure(tasks.WorkerConfig(settings, served, models))

    tasks.preload_modules(served)

    parent = os.getpid()

    def begin(**_: Any) -> None:  # noqa: ANN401 - Celery's signals
        end_with_parent(parent, signal.SIGKILL)  # a child without a parent would hold its device

    def log(**_: Any) -> None:  # noqa: ANN401 - connected, it keeps Celery from doing it
        configure_logs(settings.log_level)

    worker_process_init.connect(begin, weak=False)
    setup_logging.connect(log, weak=False)
    app = make_celery_app(settings.celery_broker_url.get_secret_value(), reap_seconds=settings.reap_seconds)
    app.conf.update(worker_proc_alive_timeout=_CHILD_SECONDS, worker_redirect_stdouts=False)
    app.worker_main(
        [
            "worker",
            "--pool=prefork",
            "--concurrency=1",  # a device holds one process; more of them are more workers
            f"--queues={','.join(served)}",
            f"--hostname={queues}-{token_hex(3)}@%h",
            "--without-gossip",
            "--without-mingle",
        ]
    )


def scheduler(
    *,
    schedule: Annotated[
        Path | None,
        typer.Option("--schedule", metavar="FILE", help="Written every three minutes, for health checks to look at."),
    ] = None,
) -> None:
    """Ring for the reaper, again and again. One is enough; two do no harm."""
    from celery.signals import setup_logging

    from cli.logs import configure_logs
    from worker.celery_app import make_celery_app
    from worker.settings import WorkerSettings

    settings = WorkerSettings.from_environment()

    def log(**_: Any) -> None:  # noqa: ANN401 - connected, it keeps Celery from doing it
        configure_logs(settings.log_level)

    setup_logging.connect(log, weak=False)
    app = make_celery_app(settings.celery_broker_url.get_secret_value(), reap_seconds=settings.reap_seconds)
    # What is due every few seconds needs no memory of the last run, so by itself no file is kept.
    kind = "celery.beat:PersistentScheduler" if schedule else "celery.beat:Scheduler"
    app.Beat(scheduler=kind, schedule=str(schedule), quiet=True, redirect_stdouts=False).run()
    sys.exit(0)


def migrate() -> None:
    """Bring the tables of DATABASE_URL to this version, and make S3_BUCKET where it is set and missing. Safe to run
    again, and from several machines at once.
    """
    from db.objects import ObjectStore
    from db.schema import migrate as upgrade
    from db.session import make_engine
    from db.settings import EngineSettings

    url = os.environ.get("DATABASE_URL")
    if not url:
        raise UsageError(
            "DATABASE_URL is not set; it says where PostgreSQL is: postgresql://user:password@host:5432/name"
        )
    engine = make_engine(url)
    try:
        before, after = upgrade(engine)
    finally:
        engine.dispose()
    typer.echo(f"the tables are at {after}" + ("" if before == after else f", before at {before or 'none'}"))
    if os.environ.get("S3_BUCKET"):
        settings = EngineSettings.from_environment()
        made = ObjectStore.of(settings).ensure_bucket()
        typer.echo(f"the bucket {settings.s3_bucket} {'was made' if made else 'is there'}")
