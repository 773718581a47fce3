"""Tasks as Label Studio sends them, parsed into requests. Whatever one of them holds, the others are parsed."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Any

import structlog

from car.errors import CarError, SourceError, VocabularyError
from car.label_studio.image_urls import InputStore, resolve_url
from car.label_studio.project_config import ProjectConfig
from car.vocabulary import Vocabulary

_STORED_AT_ONCE = 8
_LARGEST_ID = 2**63 - 1

log = structlog.get_logger("label_studio.tasks")


@dataclass(frozen=True)
class TaskRequest:
    """A task, and the picture and words that it means."""

    ls_task_id: int
    uri: str = ""
    vocabulary: Vocabulary | None = None
    """Its own words; None: the project's."""
    refused: tuple[str, str] | None = None
    """Code and detail of what is wrong with it."""


Address = Callable[[str], str]


def parse_tasks(
    plan: ProjectConfig, tasks: Sequence[object], *, instance: str, objects: InputStore | None
) -> list[TaskRequest | None]:
    """One for each task, in their order. None for what has no id, for one that came before, and for one whose picture
    could not be put into the bucket now: Label Studio asks again. Without `objects` this is every image that is
    written into its task, and S3 is not asked.
    """
    address = partial(resolve_url, instance=instance, objects=objects)
    seen: set[int] = set()
    unique: list[Mapping[str, Any] | None] = []
    for task in tasks:
        number = task_id_of(task.get("id")) if isinstance(task, Mapping) else None
        unique.append(task if isinstance(task, Mapping) and number is not None and number not in seen else None)
        seen |= {number} if number is not None else set()
    # Pictures within the tasks go to S3, which takes its time for each; all else is a matter of microseconds.
    slow = {index: task for index, task in enumerate(unique) if task is not None and _is_inline(plan, task)}
    requests = [
        parse_task(plan, task, address) if task is not None and index not in slow else None
        for index, task in enumerate(unique)
    ]
    if slow and objects is not None:
        unreachable = Event()

        def store(task: Mapping[str, Any]) -> TaskRequest | None:
            request = None if unreachable.is_set() else parse_task(plan, task, address)
            if request is None:  # the others would wait for the same server, one after the other
                unreachable.set()
            return request

        with ThreadPoolExecutor(_STORED_AT_ONCE, "inline") as threads:
            for index, request in zip(slow, threads.map(store, slow.values()), strict=True):
                requests[index] = request
    return requests


def has_inline_images(plan: ProjectConfig, tasks: Sequence[object]) -> bool:
    """Return whether `parse_tasks` would put images into the bucket."""
    return any(isinstance(task, Mapping) and _is_inline(plan, task) for task in tasks)


def parse_task(plan: ProjectConfig, task: Mapping[str, Any], address: Address) -> TaskRequest | None:
    """Parse a task that has an id. None where the bucket cannot be used now."""
    ls_task_id = int(task["id"])
    data = task.get("data")
    if not isinstance(data, Mapping):
        return TaskRequest(
            ls_task_id, refused=(SourceError.code, "the task holds no data; its picture cannot be found")
        )
    try:
        uri = address(plan.image_of(data))
        vocabulary = plan.vocabulary_of(data) if plan.vocabulary is None else None
    except (SourceError, VocabularyError) as error:
        return TaskRequest(ls_task_id, refused=(error.code, str(error).encode(errors="replace").decode()))
    except CarError as error:
        log.warning("picture not stored", task=ls_task_id, code=error.code, reason=str(error))
        return None
    return TaskRequest(ls_task_id, uri, vocabulary)


def task_id_of(value: object) -> int | None:
    """An id of Label Studio; None where it is none."""
    return value if type(value) is int and 0 < value <= _LARGEST_ID else None


def _is_inline(plan: ProjectConfig, task: Mapping[str, Any]) -> bool:
    data = task.get("data")
    try:
        return isinstance(data, Mapping) and plan.image_of(data)[:5].lower() == "data:"
    except SourceError:
        return False
