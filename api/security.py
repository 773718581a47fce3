"""Bearer keys: each route says which scope it needs."""

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session

from api.dependencies import ConnectionsDep, SessionDep
from api.errors import KeyMissingError, ScopeMissingError
from db import api_keys
from db.api_keys import KeyRefusedError, Scope
from db.models import ApiKey

_LONGEST_KEY = 200

_bearer = HTTPBearer(auto_error=False, description="A key made by `car keys create` or POST /api/v1/keys.")
Given = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]


class RequireScope:
    """The key of this request, if it is good for `scope`."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    def __call__(self, request: Request, session: SessionDep, given: Given) -> ApiKey:
        return authorize(session, request, given, self.scope)


class NeedsAlone:
    """The same in a transaction of its own, for handlers that hold no connection while they ask S3."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    async def __call__(self, request: Request, engines: ConnectionsDep, given: Given) -> ApiKey:
        def key_of(session: Session) -> ApiKey:
            return authorize(session, request, given, self.scope)

        return await engines.in_transaction(key_of, request.receive)


def authorize(session: Session, request: Request, given: HTTPAuthorizationCredentials | None, needed: Scope) -> ApiKey:
    """Raises: KeyMissing, KeyRefusedError, ScopeMissing."""
    if given is None or not given.credentials:
        raise KeyMissingError("send an API key as `Authorization: Bearer car_…`; make one with `car keys create`")
    secret = given.credentials
    if len(secret) > _LONGEST_KEY or not secret.isascii() or not secret.isprintable():
        raise KeyRefusedError("this API key is not known; make one with `car keys create`")
    # Every good key may read: so that an unknown key (401) differs from a good one of too small a scope (403).
    key = api_keys.check(session, secret, Scope.READ)
    request.state.key = key.prefix
    if needed not in api_keys.granted(key):
        raise ScopeMissingError(f"API key {key.prefix}… may not do this: it needs the scope {needed}; make another one")
    return key


Reader = Annotated[ApiKey, Depends(RequireScope(Scope.READ))]
Writer = Annotated[ApiKey, Depends(RequireScope(Scope.WRITE))]
Admin = Annotated[ApiKey, Depends(RequireScope(Scope.ADMIN))]
WriterAlone = Annotated[ApiKey, Depends(NeedsAlone(Scope.WRITE))]
