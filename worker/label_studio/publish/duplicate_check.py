"""What was sent under doubt is looked for again: one prediction of it is left in Label Studio, however late another."""

import time
from collections.abc import Callable

import structlog
from sqlalchemy import Engine

from db.label_studio import outbox
from db.label_studio.outbox import DuplicateCheck
from db.session import transaction
from worker.label_studio import LabelStudio, LabelStudioError
from worker.label_studio.errors import ProjectNotFoundError, TaskNotFoundError
from worker.label_studio.publish.circuit_breaker import CircuitBreaker
from worker.label_studio.publish.delivery import deduplicate

_AT_ONCE = 16


def run(engine: Engine, client: LabelStudio, gate: CircuitBreaker, *, stop: Callable[[], bool], until: float) -> bool:
    """All that are due, one after the other: they are few. Whether the time was over before they were.

    Raises:
        DatabaseUnreachableError: the next look makes up for what was in hand.

    """
    while gate.is_closed and not stop():
        if time.monotonic() > until:
            return True
        with transaction(engine) as session:
            due = outbox.claim_checks(session, client.url, limit=_AT_ONCE)
        if not due:
            break
        for one in due:
            _look(engine, client, gate, one)
    return False


def _look(engine: Engine, client: LabelStudio, gate: CircuitBreaker, one: DuplicateCheck) -> None:
    try:
        found = deduplicate(client, one)
    except (TaskNotFoundError, ProjectNotFoundError):
        return  # nothing is left to be there twice
    except LabelStudioError as error:
        gate.record_failure(error)
        structlog.get_logger().warning("second_look_failed", task=one.ls_task_id, code=error.code, reason=str(error))
        return
    gate.record_success()
    if found not in (None, one.ls_prediction_id):
        with transaction(engine) as session:
            outbox.keep_oldest(session, one, found)
