"""One prediction into Label Studio, which stores one more at every POST: looked for before it is sent again.

Whoever finds several of a version keeps the oldest, so that all who look decide alike (docs/decisions/0008).
"""

from collections.abc import Callable

from car.errors import CarError
from db.label_studio.outbox import DuplicateCheck, OutboxRow
from worker.label_studio import LabelStudio
from worker.label_studio.errors import TaskNotFoundError


class LeaseExpiringError(CarError):
    """Too little of the lease is left for a POST to end within it; nothing was sent."""

    code = "lease_ending"
    retryable = True


def send_prediction(client: LabelStudio, row: OutboxRow, document: str, *, in_time: Callable[[], bool]) -> int:
    """Label Studio's id of the row's one prediction. `in_time` is asked right before anything is sent.

    Raises:
        LabelStudioError: see there; after OutcomeUncertain it may be stored all the same.
        LeaseEnding: nothing was sent.

    """
    if row.replaces is not None:
        client.delete_prediction(row.replaces)
    again = row.attempt > 1
    if again and (known := deduplicate(client, row, but=row.replaces)) is not None:
        return known
    if not in_time():
        raise LeaseExpiringError("the worker was too slow; another attempt follows")
    stored = client.create_prediction(row.ls_task_id, document)
    if stored.project not in (None, row.ls_project_id):
        # Label Studio was set up anew, and its numbers are of other things.
        client.delete_prediction(stored.number)
        raise TaskNotFoundError(
            f"task {row.ls_task_id} is of project {stored.project}, not of {row.ls_project_id}, in Label Studio now"
        )
    # An earlier POST that nobody waited for may have been stored since it was looked for.
    return (deduplicate(client, row, but=row.replaces) if again else None) or stored.number


def deduplicate(client: LabelStudio, row: OutboxRow | DuplicateCheck, *, but: int | None = None) -> int | None:
    """The oldest of our version, once it is the only one. `but` does not count, and stays.

    Raises:
        LabelStudioError: see there.

    """
    stored = client.predictions(project=row.ls_project_id, task=row.ls_task_id)
    ours = [one.number for one in stored if one.model_version == row.model_version and one.number != but]
    for double in ours[1:]:
        client.delete_prediction(double)
    return ours[0] if ours else None
