"""The doorbell: Celery's queues and task names. The only module of the worker that the API imports; no torch.

A message carries nothing but "there is work". Rows in Postgres say what the work is, so a lost message costs delay and
a doubled one costs an empty look.
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
    """Segmenting: one process a device."""
    IO = "io"
    """Listing buckets, handing predictions over, picking up what was lost."""


class TaskName(StrEnum):
    SEGMENT = "car.segment"
    LIST = "car.list"
    PUBLISH = "car.publish"
    SYNC = "car.sync"
    FEEDBACK = "car.feedback"
    REAP = "car.reap"


QUEUE_OF: dict[TaskName, Queue] = {
    TaskName.SEGMENT: Queue.GPU,
    TaskName.LIST: Queue.IO,
    TaskName.PUBLISH: Queue.IO,
    TaskName.SYNC: Queue.IO,
    TaskName.FEEDBACK: Queue.IO,
    TaskName.REAP: Queue.IO,
}

MAX_PENDING = 16
"""Most messages that wait in one queue, whatever the work: more bells would wake nobody sooner."""

VISIBILITY_SECONDS = 3600
"""Redis hands a message out again after this; far above any task's time limit, so that none runs twice at once."""


def make_celery_app(broker_url: str, *, reap_seconds: float = 10.0, socket_timeout: float | None = None) -> Celery:
    """An app without a connection; the first message or the worker opens one. `socket_timeout` is how long a Redis that
    is connected may take to answer; workers, which wait for messages, have none.

    The settings answer to what Celery and Redis do when processes die (docs/reliability.md).
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
        task_routes={str(task): {"queue": str(queue)} for task, queue in QUEUE_OF.items()},
        # The lease in Postgres brings work back. A message that came back by itself would only double the bell.
        task_acks_late=True,
        task_reject_on_worker_lost=False,
        task_acks_on_failure_or_timeout=True,
        worker_prefetch_multiplier=1,
        # A worker that lost Redis goes on with what it has claimed; leases, not messages, say whose the work is.
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
        beat_schedule={"reap": {"task": str(TaskName.REAP), "schedule": reap_seconds}},
        beat_max_loop_interval=5,
    )
    return app


def notify(app: Celery, task: TaskName) -> bool:
    """Wake a worker for `task`, unless as many bells hang there already as would help. False where Redis is away:
    nothing is lost then, for `reap` rings for whatever waits.
    """
    queue = QUEUE_OF[task]
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=2)
            channel: Any = connection.default_channel  # the Redis channel, whose client kombu types do not know
            waiting = channel.client.llen(str(queue))
            if waiting < MAX_PENDING:
                app.send_task(str(task), queue=str(queue), connection=connection, retry=False, ignore_result=True)
    except (OperationalError, RedisError, OSError):
        return False
    return True
