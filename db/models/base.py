"""Base class, lease columns and common columns of all tables."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, DateTime, Double, Identity, MetaData, SmallInteger, Text, func
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from uuid_utils.compat import uuid7


def one_of(column: str, kind: type[StrEnum]) -> CheckConstraint:
    """Return a constraint that allows only the values of an enumeration."""
    values = ", ".join(f"'{value}'" for value in kind)
    return CheckConstraint(f"{column} IN ({values})", name=column)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ck": "%(table_name)s_%(constraint_name)s_check",
            "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
            "pk": "%(table_name)s_pkey",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own class attribute
        str: Text,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[str]: ARRAY(Text),
        float: Double,
    }


class LeaseColumns:
    """Mixin for rows that one worker at a time processes; see db.leases."""

    worker: Mapped[str | None] = mapped_column()
    """The worker that holds the row; with `attempt` it fences every write."""
    attempt: Mapped[int] = mapped_column(default=0, server_default="0")
    """Number of claims, without those that were released."""
    failure_count: Mapped[int] = mapped_column(SmallInteger, default=0, server_default="0")
    """Number of attempts that ended in a retryable error."""
    available_at: Mapped[datetime] = mapped_column(server_default=func.now())
    """When the row can be claimed; retryable failures move it into the future."""
    lease_expires_at: Mapped[datetime | None] = mapped_column()


def own_id() -> Mapped[UUID]:
    """Return a UUIDv7 column: known before the insert, and in the order of creation."""
    return mapped_column(primary_key=True, default=uuid7)


def number() -> Mapped[int]:
    return mapped_column(BigInteger, Identity(), primary_key=True)


def since_now() -> Mapped[datetime]:
    return mapped_column(server_default=func.now())
