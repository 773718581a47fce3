"""Which workers live: each writes its row while it does."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from db.models import Worker

_LIVE = timedelta(seconds=60)
_FORGOTTEN = timedelta(days=1)


@dataclass(frozen=True)
class Presence:
    """What a worker says of itself."""

    name: str
    queue: str
    device: str
    weights: dict[str, str]
    code_version: str


def seen(session: Session, presence: Presence, *, finished: int = 0) -> None:
    """Once at the start, then at every heartbeat, with the items that ended since the last one."""
    statement = insert(Worker).values(
        name=presence.name,
        queue=presence.queue,
        device=presence.device,
        weights=presence.weights,
        code_version=presence.code_version,
        finished=finished,
    )
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["name"], set_={"seen_at": func.now(), "finished": Worker.finished + finished}
        )
    )


def gone(session: Session, name: str) -> None:
    """A worker that ends in order."""
    session.execute(delete(Worker).where(Worker.name == name))


def living(session: Session) -> list[Worker]:
    """Those that were heard of in the last minute."""
    return list(session.scalars(select(Worker).where(Worker.seen_at > func.now() - _LIVE).order_by(Worker.name)))


def forget(session: Session) -> None:
    """Those that have not been heard of for a day."""
    session.execute(delete(Worker).where(Worker.seen_at < func.now() - _FORGOTTEN))


def on_host(session: Session, host: str) -> bool:
    """Whether a worker of this host lives: a container's health check."""
    query = select(Worker.name).where(
        Worker.name.startswith(f"{host}:", autoescape=True), Worker.seen_at > func.now() - _LIVE
    )
    return session.scalars(query.limit(1)).one_or_none() is not None
