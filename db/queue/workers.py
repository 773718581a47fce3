"""Which workers live: each writes its row while it does."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from db.models import Worker

REAPER = "beat"
"""The queue of the row that says when `reap` last ran: of no process, but of beat and whoever answers it."""
_LIVE = timedelta(seconds=60)
_FORGOTTEN = timedelta(days=1)


@dataclass(frozen=True)
class WorkerInfo:
    """What a worker says of itself."""

    name: str
    queue: str
    device: str
    weights: dict[str, str]
    code_version: str


def heartbeat(session: Session, info: WorkerInfo, *, finished: int = 0) -> None:
    """Once at the start, then at every heartbeat, with the items that ended since the last one."""
    statement = insert(Worker).values(
        name=info.name,
        queue=info.queue,
        device=info.device,
        weights=info.weights,
        code_version=info.code_version,
        finished=finished,
    )
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["name"], set_={"seen_at": func.now(), "finished": Worker.finished + finished}
        )
    )


def reaped(session: Session, code_version: str) -> None:
    """Note that `reap` has run."""
    heartbeat(session, WorkerInfo(REAPER, REAPER, "none", {}, code_version))


def last_seen(session: Session, queue: str) -> datetime | None:
    """When anybody of a queue was last heard of, within the last day."""
    return session.scalar(select(func.max(Worker.seen_at)).where(Worker.queue == queue))


def deregister(session: Session, name: str) -> None:
    """A worker that ends in order."""
    session.execute(delete(Worker).where(Worker.name == name))


def list_alive(session: Session) -> list[Worker]:
    """Those that were heard of in the last minute."""
    heard = select(Worker).where(Worker.seen_at > func.now() - _LIVE, Worker.queue != REAPER)
    return list(session.scalars(heard.order_by(Worker.name)))


def forget(session: Session) -> None:
    """Those that have not been heard of for a day."""
    session.execute(delete(Worker).where(Worker.seen_at < func.now() - _FORGOTTEN))


def on_host(session: Session, host: str) -> bool:
    """Whether a worker of this host lives: a container's health check."""
    query = select(Worker.name).where(
        Worker.name.startswith(f"{host}:", autoescape=True), Worker.seen_at > func.now() - _LIVE
    )
    return session.scalars(query.limit(1)).one_or_none() is not None
