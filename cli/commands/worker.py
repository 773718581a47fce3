"""`car worker`, `car scheduler` and `car migrate`: what `car up` runs, for deployments that run it themselves."""

import os
import signal
import sys
from enum import StrEnum
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.errors import UsageError
from cli.options import Device
from cli.output.terminal import echo

if TYPE_CHECKING:
    from celery import Celery

    from worker.settings import WorkerSettings

_CHILD_SECONDS = 120
"""Time for a child to load its models before Celery kills it; Celery's default of 4 s is too short."""
Queues = StrEnum("Queues", ["GPU", "IO", "ALL"])


def worker(
    *,
    queues: Annotated[
        Queues, typer.Option("--queues", help="gpu: segment images; io: list buckets, publish, sync, reclaim.")
    ] = Queues.ALL,
    device: Annotated[
        Device | None, typer.Option("--device", help="Device to compute on. Default: CAR_DEVICE.")
    ] = None,
) -> None:
    """Run a worker until SIGTERM.

    It then finishes or releases its items within 30 s. Settings come from the environment: DATABASE_URL,
    CELERY_BROKER_URL, S3_BUCKET, AWS_…; see `car env` and `car settings`.
    """
    from celery.signals import worker_process_init

    from car.recipe import Recipe
    from cli.model_selection import OPENAI, ModelSelection
    from cli.service.child_launcher import end_with_parent
    from worker import process
    from worker.celery_app import Queue
    from worker.settings import WorkerSettings

    settings = WorkerSettings.from_environment()
    if device:
        settings = settings.model_copy(update={"device": device.value})
    served = tuple(Queue) if queues is Queues.ALL else (Queue(queues),)
    # OpenAI's pairs differ from preset to preset, so each recipe names its own; a folder holds one pair for all.
    models = None if settings.models == OPENAI else ModelSelection(settings.models).paths(Recipe())
    process.configure(process.WorkerConfig(settings, served, models))
    process.preload_modules(served)
    parent = os.getpid()

    def begin(**_: Any) -> None:  # noqa: ANN401 - Celery's signals
        end_with_parent(parent, signal.SIGKILL)  # an orphaned child would hold its device

    worker_process_init.connect(begin, weak=False)
    app = _celery_app(settings)
    app.conf.update(worker_proc_alive_timeout=_CHILD_SECONDS, worker_redirect_stdouts=False)
    app.worker_main(
        [
            "worker",
            "--pool=prefork",
            "--concurrency=1",  # a device serves one process; run more workers for more devices
            "--include=worker.tasks",
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
        typer.Option("--schedule", metavar="FILE", help="State file, updated every three minutes for health checks."),
    ] = None,
) -> None:
    """Run the scheduler (one per deployment).

    It starts maintenance periodically; a second scheduler does no harm.
    """
    from worker.settings import WorkerSettings

    app = _celery_app(WorkerSettings.from_environment())
    # Tasks that run every few seconds need no record of their last run, so no file is kept by default.
    kind = "celery.beat:PersistentScheduler" if schedule else "celery.beat:Scheduler"
    app.Beat(scheduler=kind, schedule=str(schedule), quiet=True, redirect_stdouts=False).run()
    sys.exit(0)


def _celery_app(settings: "WorkerSettings") -> "Celery":
    """Return the app, with our logging instead of Celery's."""
    from celery.signals import setup_logging

    from cli.logs import configure_logs
    from worker.celery_app import make_celery_app

    def log(**_: Any) -> None:  # noqa: ANN401 - a connected handler disables Celery's logging
        configure_logs(settings.log_level)

    setup_logging.connect(log, weak=False)
    return make_celery_app(
        settings.celery_broker_url.get_secret_value(), maintenance_seconds=settings.maintenance_seconds
    )


def migrate() -> None:
    """Create or upgrade the tables in DATABASE_URL, and create S3_BUCKET if it is set and missing.

    Safe to repeat, and to run from several machines at once.
    """
    from db.objects import S3ObjectStore
    from db.schema import migrate as upgrade
    from db.session import make_engine
    from db.settings import EngineSettings

    url = os.environ.get("DATABASE_URL")
    if not url:
        raise UsageError("DATABASE_URL is not set; set it to postgresql://user:password@host:5432/name")
    engine = make_engine(url)
    try:
        before, after = upgrade(engine)
    finally:
        engine.dispose()
    echo(f"the tables are at {after}" + ("" if before == after else f", before at {before or 'none'}"))
    if os.environ.get("S3_BUCKET"):
        settings = EngineSettings.from_environment()
        created = S3ObjectStore.from_settings(settings).ensure_bucket()
        echo(f"the bucket {settings.s3_bucket} {'was created' if created else 'exists'}")
