"""Store one prediction in Label Studio exactly once, although each POST creates another.

Of several predictions of a version, every worker keeps the oldest (docs/decisions/0008).
"""

from collections.abc import Callable

from car.errors import CarError
from db.label_studio.outbox import DuplicateCheck, OutboxRow
from worker.label_studio import LabelStudio
from worker.label_studio.errors import TaskNotFoundError


class LeaseExpiringError(CarError):
    """The lease ends before a POST could; nothing was sent."""

    code = "lease_ending"
    retryable = True


def send_prediction(client: LabelStudio, row: OutboxRow, document: str, *, in_time: Callable[[], bool]) -> int:
    """Return Label Studio's id of the row's one prediction. `in_time` is called right before the POST.

    Raises:
        LabelStudioError: after OutcomeUncertainError the prediction may have been stored.
        LeaseExpiringError: nothing was sent.

    """
    if row.replaces is not None:
        client.delete_prediction(row.replaces)
    is_retry = row.attempt > 1
    if is_retry and (stored_id := deduplicate(client, row, ignore=row.replaces)) is not None:
        return stored_id
    if not in_time():
        raise LeaseExpiringError("the lease ends too soon; the row is sent by another attempt")
    stored = client.create_prediction(row.ls_task_id, document)
    if stored.ls_project_id not in (None, row.ls_project_id):
        # Label Studio was installed anew and uses the same ids for other tasks.
        client.delete_prediction(stored.id)
        raise TaskNotFoundError(
            f"task {row.ls_task_id} now belongs to project {stored.ls_project_id}, not {row.ls_project_id}"
        )
    # Label Studio may have stored an earlier, unanswered POST since the check above.
    return (deduplicate(client, row, ignore=row.replaces) if is_retry else None) or stored.id


def deduplicate(client: LabelStudio, row: OutboxRow | DuplicateCheck, *, ignore: int | None = None) -> int | None:
    """Delete all but the oldest prediction of the row's version, and return its id. Raises: LabelStudioError.

    The prediction `ignore` is neither counted nor deleted.
    """
    stored = client.predictions(project=row.ls_project_id, task=row.ls_task_id)
    ids = [prediction.id for prediction in stored if prediction.model_version == row.model_version]
    ids = [prediction_id for prediction_id in ids if prediction_id != ignore]
    for duplicate in ids[1:]:
        client.delete_prediction(duplicate)
    return ids[0] if ids else None
