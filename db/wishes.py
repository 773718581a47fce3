"""Tasks as Label Studio sends them, made into what is asked of the database. Whatever one of them holds, the others are
asked for.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Any

import structlog
from sqlalchemy.orm import Session

from car.errors import CarError, SourceError, VocabularyError
from car.project_plan import ProjectPlan
from car.vocabulary import Vocabulary
from db import vocabularies
from db.items import storable
from db.objects import ObjectStore
from db.pictures import address_of
from db.tasks import Asked

_STORED_AT_ONCE = 8
_LARGEST_ID = 2**63 - 1

log = structlog.get_logger("label_studio.tasks")


@dataclass(frozen=True)
class Wish:
    """A task, and the picture and words that it means."""

    task: int
    uri: str = ""
    vocabulary: Vocabulary | None = None
    """Its own words; None: the project's."""
    refused: tuple[str, str] | None = None
    """Code and detail of what is wrong with it."""


Address = Callable[[str], str]


def wishes_of(
    plan: ProjectPlan, tasks: Sequence[object], *, instance: str, objects: ObjectStore | None
) -> list[Wish | None]:
    """One for each task, in their order. None for what has no id, for one that came before, and for one whose picture
    could not be put into the bucket now: Label Studio asks again. Without `objects` this is every picture that is
    written into its task, and S3 is not asked.
    """
    seen: set[int] = set()
    wanted: list[Mapping[str, Any] | None] = []
    for task in tasks:
        number = number_of(task.get("id")) if isinstance(task, Mapping) else None
        wanted.append(task if isinstance(task, Mapping) and number is not None and number not in seen else None)
        seen |= {number} if number is not None else set()
    # Pictures within the tasks go to S3, which takes its time for each; all else is a matter of microseconds.
    slow = {place: task for place, task in enumerate(wanted) if task is not None and _is_inline(plan, task)}
    address = partial(address_of, instance=instance, objects=objects)
    found = [
        wish_of(plan, task, address) if task is not None and place not in slow else None
        for place, task in enumerate(wanted)
    ]
    if slow and objects is not None:
        away = Event()

        def stored(task: Mapping[str, Any]) -> Wish | None:
            wish = None if away.is_set() else wish_of(plan, task, address)
            if wish is None:  # the others would wait for the same server, one after the other
                away.set()
            return wish

        with ThreadPoolExecutor(_STORED_AT_ONCE, "inline") as threads:
            for place, wish in zip(slow, threads.map(stored, slow.values()), strict=True):
                found[place] = wish
    return found


def has_inline_pictures(plan: ProjectPlan, tasks: Sequence[object]) -> bool:
    """Whether `wishes_of` would ask S3."""
    return any(isinstance(task, Mapping) and _is_inline(plan, task) for task in tasks)


def wish_of(plan: ProjectPlan, task: Mapping[str, Any], address: Address) -> Wish | None:
    """Of a task with an id. None where the bucket cannot be used now."""
    number = int(task["id"])
    data = task.get("data")
    if not isinstance(data, Mapping):
        return Wish(number, refused=(SourceError.code, "the task holds no data; its picture cannot be found"))
    try:
        uri = address(plan.image_of(data))
        vocabulary = plan.vocabulary_of(data) if plan.vocabulary is None else None
    except (SourceError, VocabularyError) as error:
        return Wish(number, refused=(error.code, _storable(str(error))))
    except CarError as error:
        log.warning("picture not stored", task=number, code=error.code, reason=str(error))
        return None
    return Wish(number, uri, vocabulary)


def asked_of(session: Session, wishes: Iterable[Wish]) -> list[Asked]:
    """With their words kept."""
    wanted = list(wishes)
    own = [wish.vocabulary for wish in wanted if wish.vocabulary is not None]
    ids = dict(zip((one.digest for one in own), vocabularies.keep_all(session, own), strict=True)) if own else {}
    return [
        Asked(
            task=wish.task,
            uri=wish.uri,
            vocabulary_id=ids[wish.vocabulary.digest] if wish.vocabulary is not None else None,
            refused=wish.refused,
        )
        for wish in wanted
    ]


def number_of(value: object) -> int | None:
    """An id of Label Studio; None where it is none."""
    return value if type(value) is int and 0 < value <= _LARGEST_ID else None


def _is_inline(plan: ProjectPlan, task: Mapping[str, Any]) -> bool:
    data = task.get("data")
    try:
        return isinstance(data, Mapping) and plan.image_of(data)[:5].lower() == "data:"
    except SourceError:
        return False


def _storable(detail: str) -> str:
    """Halves of surrogate pairs as question marks too: PostgreSQL holds none."""
    return storable(detail.encode(errors="replace").decode())
