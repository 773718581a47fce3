"""API keys: 32 random bytes that are shown once; only their sha256 is stored."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from car.errors import CarError
from db.errors import NotFoundError
from db.models import ApiKey

_PREFIX = "car_"
_SHOWN = 12
_UNKNOWN = "this API key is unknown; create one with `car keys create`"


class Scope(StrEnum):
    """Each scope includes those before it."""

    READ = "read"
    """Jobs, results, masks."""
    WRITE = "write"
    """Create, cancel and retry jobs; vocabularies."""
    ADMIN = "admin"
    """Keys."""


class KeyRefusedError(CarError):
    """The key is unknown, revoked or expired, or lacks the scope."""

    code = "key_refused"


def create(
    session: Session, name: str, scopes: Iterable[Scope], *, expires_at: datetime | None = None
) -> tuple[ApiKey, str]:
    """Return the row and the key itself, which cannot be shown again."""
    secret = _PREFIX + secrets.token_urlsafe(32)
    key = ApiKey(
        name=name,
        prefix=secret[:_SHOWN],
        sha256=_digest(secret),
        scopes=sorted({str(scope) for scope in scopes}),
        expires_at=expires_at,
    )
    session.add(key)
    session.flush()
    return key, secret


def check(session: Session, secret: str, needed: Scope) -> ApiKey:
    """Return the key's row if it has the scope `needed`. Raises KeyRefusedError, whose message gives the reason only if
    the key itself is right.
    """
    if not (secret.isascii() and secret.isprintable()):  # PostgreSQL cannot compare it
        raise KeyRefusedError(_UNKNOWN)
    key = session.scalars(select(ApiKey).where(ApiKey.prefix == secret[:_SHOWN])).one_or_none()
    # An unknown key takes as long to compare, so that timing does not reveal prefixes.
    matches = hmac.compare_digest(key.sha256 if key else _digest(""), _digest(secret))
    if key is None or not matches:
        raise KeyRefusedError(_UNKNOWN)
    now = session.scalars(select(func.now())).one()
    if key.revoked_at is not None:
        raise KeyRefusedError(f"API key {key.prefix}… was revoked; create another with `car keys create`")
    if key.expires_at is not None and key.expires_at <= now:
        raise KeyRefusedError(f"API key {key.prefix}… has expired; create another with `car keys create`")
    if needed not in granted(key):
        raise KeyRefusedError(f"API key {key.prefix}… lacks the scope {needed}; create one with it")
    # Once a minute is exact enough and saves a write for each request.
    stale = (ApiKey.last_used_at.is_(None)) | (ApiKey.last_used_at < now - func.make_interval(0, 0, 0, 0, 0, 1))
    session.execute(update(ApiKey).where(ApiKey.id == key.id, stale).values(last_used_at=now))
    return key


def granted(key: ApiKey) -> set[Scope]:
    """Return all scopes that the key's own ones include."""
    order = list(Scope)
    highest = max((order.index(Scope(scope)) for scope in key.scopes), default=-1)
    return set(order[: highest + 1])


def revoke(session: Session, key_id: UUID) -> ApiKey:
    """Raises: NotFoundError."""
    key = session.get(ApiKey, key_id)
    if key is None:
        raise NotFoundError(f"there is no API key {key_id}")
    if key.revoked_at is None:
        key.revoked_at = session.scalars(select(func.now())).one()
    return key


def list_all(session: Session) -> list[ApiKey]:
    """Return all keys, the newest first."""
    return list(session.scalars(select(ApiKey).order_by(ApiKey.id.desc())))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
