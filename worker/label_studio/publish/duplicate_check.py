"""Check sent predictions again whose POST was uncertain: one stays in Label Studio, however late another is stored."""

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

_BATCH = 16


def run(
    engine: Engine, client: LabelStudio, breaker: CircuitBreaker, *, stop: Callable[[], bool], until: float
) -> bool:
    """Run the due checks one by one; return whether `until` came before their end.

    Raises:
        DatabaseUnreachableError: claimed checks are due again later.

    """
    while breaker.is_closed and not stop():
        if time.monotonic() > until:
            return True
        with transaction(engine) as session:
            checks = outbox.claim_checks(session, client.url, limit=_BATCH)
        if not checks:
            break
        for check in checks:
            _run(engine, client, breaker, check)
    return False


def _run(engine: Engine, client: LabelStudio, breaker: CircuitBreaker, check: DuplicateCheck) -> None:
    try:
        oldest = deduplicate(client, check)
    except (TaskNotFoundError, ProjectNotFoundError):
        return  # deleted with all its predictions
    except LabelStudioError as error:
        breaker.record_failure(error)
        structlog.get_logger().warning(
            "duplicate_check_failed", task=check.ls_task_id, code=error.code, reason=str(error)
        )
        return
    breaker.record_success()
    if oldest not in (None, check.ls_prediction_id):
        with transaction(engine) as session:
            outbox.keep_oldest(session, check, oldest)
