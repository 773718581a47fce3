"""Who computes."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, func
from sqlalchemy.orm import Mapped, mapped_column

from db.models.base import Base, since_now


class Worker(Base):
    """A worker process, as long as it is heard of."""

    __tablename__ = "worker"

    name: Mapped[str] = mapped_column(primary_key=True)
    """host:pid:random, never used twice."""
    queue: Mapped[str]
    device: Mapped[str]
    weights: Mapped[dict[str, Any]]
    """Role to sha256; empty for workers without models."""
    code_version: Mapped[str]
    finished: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """Items since it started."""
    started_at: Mapped[datetime] = since_now()
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())


class WorkerModel(Base):
    """Weights that workers of this installation last had: what the web process makes model versions of, also while no
    worker lives.
    """

    __tablename__ = "worker_model"

    proposal: Mapped[str] = mapped_column(primary_key=True)
    classifier: Mapped[str] = mapped_column(primary_key=True)
    sam: Mapped[str] = mapped_column(primary_key=True, default="", server_default="")
    """Names of f, g and SAM as recipes give them; all `*` for models that serve every recipe; no name of a SAM for
    recipes without one.
    """
    weights: Mapped[dict[str, Any]]
    """Role to sha256."""
    registered_at: Mapped[datetime] = since_now()
