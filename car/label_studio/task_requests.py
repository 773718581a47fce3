"""Parser of tasks as Label Studio sends them. An invalid task does not affect the others."""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Any

from car.errors import CarError, SourceError, VocabularyError
from car.label_studio.image_urls import resolve_url
from car.label_studio.project_config import ProjectConfig
from car.object_store import ObjectStore
from car.vocabulary import Vocabulary

_STORED_AT_ONCE = 8
_LARGEST_ID = 2**63 - 1

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskRequest:
    """A task with its image and words."""

    ls_task_id: int
    uri: str = ""
    vocabulary: Vocabulary | None = None
    """The task's own words; None: the project's."""
    refused: tuple[str, str] | None = None
    """Code and detail of the error, if the task is invalid."""


Address = Callable[[str], str]


def parse_tasks(
    config: ProjectConfig, tasks: Sequence[object], *, instance: str, objects: ObjectStore | None
) -> list[TaskRequest | None]:
    """Parse tasks, one request each, in their order. A task without an id, a repeated one, and one whose inline image
    could not be stored gives None: Label Studio sends it again. Without `objects` no inline image is stored.
    """
    address = partial(resolve_url, instance=instance, objects=objects)
    seen: set[int] = set()
    unique: list[Mapping[str, Any] | None] = []
    for task in tasks:
        number = task_id_of(task.get("id")) if isinstance(task, Mapping) else None
        unique.append(task if isinstance(task, Mapping) and number is not None and number not in seen else None)
        seen |= {number} if number is not None else set()
    # Inline images are stored in S3, in parallel; all other tasks take microseconds.
    slow = {index: task for index, task in enumerate(unique) if task is not None and _is_inline(config, task)}
    requests = [
        parse_task(config, task, address) if task is not None and index not in slow else None
        for index, task in enumerate(unique)
    ]
    if slow and objects is not None:
        unreachable = Event()

        def store(task: Mapping[str, Any]) -> TaskRequest | None:
            request = None if unreachable.is_set() else parse_task(config, task, address)
            if request is None:  # the others would wait for the same server in turn
                unreachable.set()
            return request

        with ThreadPoolExecutor(_STORED_AT_ONCE, "inline") as threads:
            for index, request in zip(slow, threads.map(store, slow.values()), strict=True):
                requests[index] = request
    return requests


def has_inline_images(config: ProjectConfig, tasks: Sequence[object]) -> bool:
    """Return whether `parse_tasks` would put images into the bucket."""
    return any(isinstance(task, Mapping) and _is_inline(config, task) for task in tasks)


def parse_task(config: ProjectConfig, task: Mapping[str, Any], address: Address) -> TaskRequest | None:
    """Parse a task that has an id; return None if its inline image cannot be stored now."""
    ls_task_id = int(task["id"])
    data = task.get("data")
    if not isinstance(data, Mapping):
        return TaskRequest(ls_task_id, refused=(SourceError.code, "the task has no data, so its image is unknown"))
    try:
        uri = address(config.image_of(data))
        vocabulary = config.vocabulary_of(data) if config.vocabulary is None else None
    except (SourceError, VocabularyError) as error:
        return TaskRequest(ls_task_id, refused=(error.code, str(error).encode(errors="replace").decode()))
    except CarError as error:
        _log.warning("image_not_stored: task %d, %s: %s", ls_task_id, error.code, error)
        return None
    return TaskRequest(ls_task_id, uri, vocabulary)


def task_id_of(value: object) -> int | None:
    """Return a valid task id, or None."""
    return value if type(value) is int and 0 < value <= _LARGEST_ID else None


def _is_inline(config: ProjectConfig, task: Mapping[str, Any]) -> bool:
    data = task.get("data")
    try:
        return isinstance(data, Mapping) and config.image_of(data)[:5].lower() == "data:"
    except SourceError:
        return False
