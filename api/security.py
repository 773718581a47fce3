"""Bearer API keys: each route names the scope that it needs."""

from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session

from api.dependencies import ConnectionsDep, SessionDep
from api.errors import KeyMissingError, ScopeMissingError
from db import api_keys
from db.api_keys import KeyRefusedError, Scope
from db.models import ApiKey

_LONGEST_KEY = 200

_bearer = HTTPBearer(auto_error=False, description="An API key made by `car keys create` or POST /api/v1/keys.")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]


def authorize(session: Session, request: Request, credentials: Credentials, scope: Scope) -> ApiKey:
    """Return the key of a request if it has the scope.

    Raises:
        KeyMissingError, KeyRefusedError, ScopeMissingError.

    """
    if credentials is None or not credentials.credentials:
        raise KeyMissingError("send an API key as `Authorization: Bearer car_…`; make one with `car keys create`")
    secret = credentials.credentials
    if len(secret) > _LONGEST_KEY or not secret.isascii() or not secret.isprintable():
        raise KeyRefusedError("this API key is unknown; make one with `car keys create`")
    # Every valid key may read: an unknown key is a 401, a valid one without the scope a 403.
    key = api_keys.check(session, secret, Scope.READ)
    request.state.key = key.prefix
    if scope not in api_keys.granted(key):
        raise ScopeMissingError(f"API key {key.prefix}… does not have the scope {scope!s}; make a key that has")
    return key


async def _writer_in_own_transaction(request: Request, connections: ConnectionsDep, credentials: Credentials) -> ApiKey:
    return await connections.in_transaction(
        lambda session: authorize(session, request, credentials, Scope.WRITE), request.receive
    )


def _requires(scope: Scope) -> Any:  # noqa: ANN401 - FastAPI's
    def key_of(request: Request, session: SessionDep, credentials: Credentials) -> ApiKey:
        return authorize(session, request, credentials, scope)

    return Depends(key_of)


Reader = Annotated[ApiKey, _requires(Scope.READ)]
Writer = Annotated[ApiKey, _requires(Scope.WRITE)]
Admin = Annotated[ApiKey, _requires(Scope.ADMIN)]
WriterInOwnTransaction = Annotated[ApiKey, Depends(_writer_in_own_transaction)]
"""For handlers that hold no connection while they read from S3."""
