"""Workers with their models, and the API keys of clients."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, func
from sqlalchemy.orm import Mapped, mapped_column

from db.models.base import Base, own_id, since_now


class Worker(Base):
    """A worker process that sends heartbeats."""

    __tablename__ = "worker"

    name: Mapped[str] = mapped_column(primary_key=True)
    """host:pid:random, unique for ever."""
    queue: Mapped[str]
    device: Mapped[str]
    weights: Mapped[dict[str, Any]]
    """Role to sha256; empty for workers without models."""
    code_version: Mapped[str]
    finished: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """Items that ended since it started."""
    started_at: Mapped[datetime] = since_now()
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())


class WorkerModel(Base):
    """Weights that workers last loaded, from which the web process makes model versions even without a worker."""

    __tablename__ = "worker_model"

    proposal: Mapped[str] = mapped_column(primary_key=True)
    classifier: Mapped[str] = mapped_column(primary_key=True)
    sam: Mapped[str] = mapped_column(primary_key=True, default="", server_default="")
    """Names of f, g and SAM in recipes: `*` for models that serve every recipe, empty for recipes without SAM."""
    weights: Mapped[dict[str, Any]]
    tokenizers: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    """Role to the merges of its tokenizer, or `openai`."""
    registered_at: Mapped[datetime] = since_now()


class WeightsCard(Base):
    """The model card of weights that a worker has loaded once."""

    __tablename__ = "weights_card"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    words: Mapped[list[str]]
    """The words that they know; empty: any word."""
    note: Mapped[str]


class ApiKey(Base):
    """A bearer key, of which only the sha256 is stored."""

    __tablename__ = "api_key"

    id: Mapped[UUID] = own_id()
    name: Mapped[str]
    prefix: Mapped[str] = mapped_column(unique=True)
    """The first characters of the key, which identify it."""
    sha256: Mapped[str]
    scopes: Mapped[list[str]]
    expires_at: Mapped[datetime | None] = mapped_column()
    revoked_at: Mapped[datetime | None] = mapped_column()
    last_used_at: Mapped[datetime | None] = mapped_column()
    created_at: Mapped[datetime] = since_now()
