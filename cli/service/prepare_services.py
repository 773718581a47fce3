"""Prepare what the processes of `car up` need: reachable engines, current tables, a bucket, a key."""

import secrets
from collections.abc import Mapping
from urllib.parse import urlsplit

import redis
from sqlalchemy.orm import Session

from cli.errors import BrokerUnreachableError, UsageError
from db import api_keys
from db.objects import S3ObjectStore
from db.schema import migrate
from db.session import make_engine, transaction
from db.settings import EngineSettings

OUTSIDE = ("DATABASE_URL", "CELERY_BROKER_URL", "S3_BUCKET")


def uses_outside_engines(environment: Mapping[str, str]) -> bool:
    """Return whether the environment names engines.

    Raises:
        UsageError: it names only some of the three.

    """
    missing = [name for name in OUTSIDE if not environment.get(name)]
    if missing and len(missing) < len(OUTSIDE):
        given = ", ".join(name for name in OUTSIDE if name not in missing)
        raise UsageError(
            f"{given} set, but not {', '.join(missing)}: set all of {', '.join(OUTSIDE)} to use your own engines, or "
            "none to use the embedded ones"
        )
    return not missing


def check_broker(url: str) -> None:
    """Raises: BrokerUnreachableError."""
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss"):
        raise BrokerUnreachableError("CELERY_BROKER_URL is of no Redis; it looks like redis://:password@host:6379/0")
    try:
        place = f"{parts.hostname}:{parts.port or 6379}"
        with redis.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=5) as client:
            client.ping()
    except redis.AuthenticationError:
        raise BrokerUnreachableError(
            f"Redis at {place} refuses the password; check the one in CELERY_BROKER_URL"
        ) from None
    except (redis.RedisError, OSError, ValueError) as error:
        raise BrokerUnreachableError(
            f"Redis at {place} does not answer ({error}); check CELERY_BROKER_URL, and that it runs"
        ) from None


def prepare(settings: EngineSettings, known: Mapping[str, str]) -> dict[str, str]:
    """Check all three engines, migrate the tables and create the bucket if it is missing. Return the API's key and the
    secrets of Label Studio: the `known` ones if they are still valid, otherwise new ones.

    Raises:
        DatabaseUnreachableError, MigrationBlockedError, BrokerUnreachableError, ObjectStoreError: with what to do.

    """
    check_broker(settings.celery_broker_url.get_secret_value())
    S3ObjectStore.from_settings(settings).ensure_bucket()
    engine = make_engine(settings.database_url.get_secret_value(), pool=2)
    try:
        migrate(engine)
        with transaction(engine) as session:
            key = _admin_key(session, known.get("CAR_API_KEY", ""))
    finally:
        engine.dispose()
    return {
        "CAR_API_KEY": key,
        "BASIC_AUTH_USER": known.get("BASIC_AUTH_USER") or "car",
        "BASIC_AUTH_PASS": known.get("BASIC_AUTH_PASS") or secrets.token_urlsafe(18),
        "CAR_WEBHOOK_SECRET": known.get("CAR_WEBHOOK_SECRET") or secrets.token_urlsafe(24),
    }


def _admin_key(session: Session, known: str) -> str:
    if known:
        try:
            api_keys.check(session, known, api_keys.Scope.ADMIN)
        except api_keys.KeyRefusedError:
            pass  # the folder's key belongs to another database, or was revoked
        else:
            return known
    return api_keys.create(session, "car up", [api_keys.Scope.ADMIN])[1]
