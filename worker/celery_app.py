"""Celery's queues, task names and notifications. The API imports no other module of the worker, so it needs no torch.

A message says only that there may be work. Rows in Postgres hold the work itself, so a lost message costs delay and a
duplicate costs one empty query.
"""

from enum import StrEnum
from typing import Any

from celery import Celery
from kombu import Exchange
from kombu import Queue as Binding
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError


class Queue(StrEnum):
    GPU = "gpu"
    """Segmentation: one process per device."""
    IO = "io"
    """Listing, publishing, syncing and maintenance."""


class TaskName(StrEnum):
    SEGMENT = "car.segment"
    LIST = "car.list"
    PUBLISH = "car.publish"
    SYNC = "car.sync"
    FEEDBACK = "car.feedback"
    MAINTENANCE = "car.maintenance"


TASK_QUEUES: dict[TaskName, Queue] = dict.fromkeys(TaskName, Queue.IO) | {TaskName.SEGMENT: Queue.GPU}

MAX_PENDING = 16
"""Messages in one queue above which `notify` sends none: more would not start the work sooner."""

VISIBILITY_SECONDS = 3600
"""Redis redelivers an unacknowledged message after this time. It is above every task's time limit, so that no task runs
twice at once."""


def make_celery_app(
    broker_url: str, *, maintenance_seconds: float = 10.0, socket_timeout: float | None = None
) -> Celery:
    """Return an app that connects with its first message. docs/reliability.md gives the reasons for its settings.

    `socket_timeout` limits Redis's answers, in seconds; a worker, which waits for messages, sets none.
    """
    app = Celery("car", broker=broker_url, set_as_current=True)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        event_serializer="json",
        result_backend=None,
        task_ignore_result=True,
        task_queues=[Binding(name, Exchange(name), routing_key=name) for name in Queue],
        task_default_queue=Queue.IO.value,
        task_routes={str(task): {"queue": str(queue)} for task, queue in TASK_QUEUES.items()},
        # The lease in Postgres brings work back; a redelivered message would only be a second notification.
        task_acks_late=True,
        task_reject_on_worker_lost=False,
        task_acks_on_failure_or_timeout=True,
        worker_prefetch_multiplier=1,
        # A worker that loses Redis finishes what it has claimed: leases, not messages, decide who owns an item.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_soft_shutdown_timeout=25.0,
        worker_enable_soft_shutdown_on_idle=False,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_SECONDS,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            "socket_keepalive": True,
            "socket_connect_timeout": 2.0,
            "socket_timeout": socket_timeout,
            "health_check_interval": 10,
        },
        beat_schedule={"maintenance": {"task": str(TaskName.MAINTENANCE), "schedule": maintenance_seconds}},
        beat_max_loop_interval=5,
    )
    return app


def notify(app: Celery, task: TaskName) -> bool:
    """Send a message for `task`, unless MAX_PENDING messages wait in its queue already.

    Return False if Redis cannot be reached. No work is lost then: maintenance notifies again for all that waits.
    """
    queue = TASK_QUEUES[task]
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=2)
            channel: Any = connection.default_channel  # the Redis channel; kombu's types do not know its client
            if channel.client.llen(str(queue)) < MAX_PENDING:
                app.send_task(str(task), queue=str(queue), connection=connection, retry=False, ignore_result=True)
    except (OperationalError, RedisError, OSError):
        return False
    return True
