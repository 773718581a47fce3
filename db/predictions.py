"""The outbox to Label Studio: each prediction is rendered, then reaches it once, by one of two ways.

(finish, ask) ──> pending ──claim──> pending, leased ──sent──> sent           written back by a publisher
                   │ ^  ^              │  ├──failed────────> failed
                   │ │  └──later───────┤  └──orphaned──────> orphaned        its task was deleted there
                   │ │     rendered ───┘
                   │ └──(asked for again later than JUST_NOW)── sent          it was deleted there
                   └──taken as an answer to /predict──> sent                  db.tasks.ask
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from db import models

JUST_NOW = timedelta(seconds=120)
"""Longer than Label Studio's /predict lasts: it chose its tasks before, so it cannot know what was sent since."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A prediction that is this worker's until its lease ends."""

    id: int
    attempt: int
    """From the second on, ask Label Studio first whether it has a prediction of this version for the task."""
    instance: str
    project: int
    task: int
    model_version: str
    result_id: UUID
    run_key: str
    masks_key: str
    document: str | None
    label_config: str
    extra_params: dict[str, Any]
    failures: int = 0
    """Times it went back to wait after an error: waits grow by it."""
    replaces: int | None = None
    """Label Studio's id of a prediction of this version with another result: delete it first (404 is fine)."""


def claim(session: Session, worker: str, *, limit: int, lease: timedelta, instance: str | None) -> list[Outgoing]:
    """Up to `limit` predictions, now this worker's. The attempt is counted before the work. Rows without a document come
    whosoever they are; those with one only where they are of `instance`, the one that may be written to (None: none is).
    What the project's present configuration does not ask for any more is dropped on the way.
    """
    raise NotImplementedError


def rendered(session: Session, worker: str, made: Sequence[tuple[Outgoing, str, float]], *, keep: bool) -> set[int]:
    """Documents as JSON text, with their scores; ids of those that were still this worker's. `keep`: they go on to be
    sent; otherwise they are free for whoever comes first.
    """
    raise NotImplementedError


def sent(session: Session, worker: str, outgoing: Outgoing, prediction_id: int) -> bool:
    """Label Studio has it, as `prediction_id`. False where it is not this worker's any more: delete it there again."""
    raise NotImplementedError


def later(session: Session, worker: str, outgoing: Outgoing, *, code: str, detail: str, wait: timedelta) -> bool:
    """An error that may pass by itself: not before `wait` from now."""
    raise NotImplementedError


def failed(session: Session, worker: str, outgoing: Outgoing, *, code: str, detail: str) -> bool:
    """It will never be accepted."""
    raise NotImplementedError


def orphaned(session: Session, worker: str, outgoing: Outgoing) -> bool:
    """Its task is not in Label Studio any more."""
    raise NotImplementedError


def hand_back(session: Session, worker: str, outgoing: Collection[Outgoing]) -> set[int]:
    """As if never claimed: of a worker that stops before it sent them."""
    raise NotImplementedError


def waiting(session: Session, instance: str | None) -> bool:
    """Whether a publisher that may write to `instance` would find something to claim."""
    raise NotImplementedError


def retry(session: Session, project: models.Project) -> int:
    """Failed predictions of a project once more, rendered anew; how many."""
    raise NotImplementedError
