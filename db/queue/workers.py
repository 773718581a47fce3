"""Workers that are alive: each updates its row with every heartbeat."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from db.models import Worker

MAINTENANCE = "beat"
"""Queue of the row that records when maintenance last ran: it shows that the scheduler and a worker respond."""
_ALIVE = timedelta(seconds=60)
_FORGOTTEN = timedelta(days=1)


@dataclass(frozen=True)
class WorkerInfo:
    """What a worker reports with its heartbeat."""

    name: str
    queue: str
    device: str
    weights: dict[str, str]
    code_version: str


def heartbeat(session: Session, info: WorkerInfo, *, finished: int = 0) -> None:
    """Register a worker or record its heartbeat, with the number of items that ended since the last one."""
    statement = insert(Worker).values(vars(info) | {"finished": finished})
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["name"], set_={"seen_at": func.now(), "finished": Worker.finished + finished}
        )
    )


def record_maintenance(session: Session, code_version: str) -> None:
    """Record that maintenance has run."""
    heartbeat(session, WorkerInfo(MAINTENANCE, MAINTENANCE, "none", {}, code_version))


def last_seen(session: Session, queue: str) -> datetime | None:
    """Return the last heartbeat of a queue's workers within the last day."""
    return session.scalar(select(func.max(Worker.seen_at)).where(Worker.queue == queue))


def deregister(session: Session, name: str) -> None:
    """Delete the row of a worker that shuts down."""
    session.execute(delete(Worker).where(Worker.name == name))


def list_alive(session: Session) -> list[Worker]:
    """Return workers with a heartbeat in the last minute."""
    alive = select(Worker).where(Worker.seen_at > func.now() - _ALIVE, Worker.queue != MAINTENANCE)
    return list(session.scalars(alive.order_by(Worker.name)))


def forget(session: Session) -> None:
    """Delete workers without a heartbeat for a day."""
    session.execute(delete(Worker).where(Worker.seen_at < func.now() - _FORGOTTEN))


def on_host(session: Session, host: str) -> bool:
    """Return whether a worker of this host is alive, for a container's health check."""
    own = Worker.name.startswith(f"{host}:", autoescape=True)
    return session.scalar(select(Worker.name).where(own, Worker.seen_at > func.now() - _ALIVE).limit(1)) is not None
