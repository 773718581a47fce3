"""Looks at all tasks of a project: wanted, leased, resumed where they stopped."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from db import models


@dataclass(frozen=True, slots=True)
class SyncClaim:
    """A project whose tasks are this worker's to look at until its lease ends."""

    id: int
    """Of the project's row."""
    instance: str
    number: int
    wanted_at: datetime
    cursor: int | None
    """The last task that was looked at; none at the beginning."""
    seen: int
    failures: int


def want_sync(session: Session, project: models.Project) -> None:
    """All its tasks are to be looked at, now. A look that is under way goes on; one that waits after an error waits no
    longer.
    """
    raise NotImplementedError


def want_all(session: Session, *, instance: str, every: timedelta) -> int:
    """The same for the projects of an instance whose last look is so long ago; how many. May be called at any rate."""
    raise NotImplementedError


def claim_sync(session: Session, worker: str, lease: timedelta, *, instance: str) -> SyncClaim | None:
    """The project of this instance that has waited longest."""
    raise NotImplementedError


def advance(
    session: Session, worker: str, claim: SyncClaim, *, cursor: int, seen: int, total: int | None, lease: timedelta
) -> bool:
    """A page of `seen` more tasks was asked for, up to task `cursor`; call it in the transaction of `tasks.ask`. False
    where the look is not this worker's any more.
    """
    raise NotImplementedError


def finish_sync(session: Session, worker: str, claim: SyncClaim) -> bool:
    """All tasks were looked at."""
    raise NotImplementedError


def fail_sync(session: Session, worker: str, claim: SyncClaim, *, code: str, detail: str, retryable: bool) -> None:
    """Label Studio did not answer, or refused. What may pass by itself is tried again after a wait, from the cursor on;
    a look that failed too often ends until it is wanted anew.
    """
    raise NotImplementedError


def sync_waiting(session: Session, *, instance: str) -> bool:
    """Whether a worker would find a project to look at."""
    raise NotImplementedError
