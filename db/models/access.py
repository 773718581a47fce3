"""Who may ask."""

from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Mapped, mapped_column

from db.models.base import Base, own_id, since_now


class ApiKey(Base):
    """A bearer key; only its sha256 is kept."""

    __tablename__ = "api_key"

    id: Mapped[UUID] = own_id()
    name: Mapped[str]
    prefix: Mapped[str] = mapped_column(unique=True)
    """The first characters of the key, by which it is found and shown."""
    sha256: Mapped[str]
    scopes: Mapped[list[str]]
    expires_at: Mapped[datetime | None] = mapped_column()
    revoked_at: Mapped[datetime | None] = mapped_column()
    last_used_at: Mapped[datetime | None] = mapped_column()
    created_at: Mapped[datetime] = since_now()
