"""Tasks of Label Studio into items of their project's job, and what is known of them out again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from db.models import ItemState, Lane
from db.projects import Known


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A task whose picture is to be labelled."""

    task: int
    uri: str = ""
    vocabulary_id: UUID | None = None
    """Its own words; None: the project's."""
    refused: tuple[str, str] | None = None
    """Code and detail of why it cannot be labelled: kept as a failed item, so that it is explained."""


@dataclass(frozen=True)
class Answer:
    """What is known of a task's picture."""

    task: int
    document: str | None
    """The prediction as JSON text, taken: it counts as sent, and nobody else sends it."""
    state: ItemState
    result_id: UUID | None
    error_code: str | None
    error_detail: str | None


def ask(
    session: Session,
    known: Known,
    asked: Sequence[Asked],
    *,
    weights: Mapping[str, str] | None,
    lane: Lane = Lane.BULK,
    answering: int = 0,
    missing: bool = False,
) -> list[Answer]:
    """Queue what is not known, and say what is, in the order asked. Ring for SEGMENT where a state is queued, and for
    PUBLISH where one is done without a document, after the commit.

    `weights`: results of others than these are made again; None: any will do. `answering`: bytes of documents that may
    be taken. `missing`: Label Studio says that it has no prediction of our version; what was sent longer ago than
    `db.predictions.JUST_NOW` was deleted there, and goes out again.

    Failed items stay so, unless what failed too often may have passed by now; cancelled ones are queued again.
    """
    raise NotImplementedError


def ask_alone(session: Session, known: Known, asked: Asked, *, weights: Mapping[str, str] | None = None) -> int:
    """The id of an item for somebody who waits: nothing of it goes to Label Studio by itself. Ring for SEGMENT."""
    raise NotImplementedError


def standing(session: Session, item_id: int) -> Answer:
    """What has become of it; without a document, for its regions depend on the prompt.

    Raises:
        NotFound: there is no such item.

    """
    raise NotImplementedError
