"""/api/v1/keys and /workers."""

from uuid import UUID

from fastapi import APIRouter

from api.dependencies import SessionDep
from api.schemas.common import Page
from api.schemas.keys import KeyCreated, KeyRequest, KeyView, WorkerView
from api.security import Admin, Reader
from db import api_keys
from db.queue import workers

router = APIRouter()


@router.get("/keys", tags=["keys"], summary="API keys, newest first")
def list_keys(session: SessionDep, _: Admin) -> Page[KeyView]:
    return Page(items=[KeyView.model_validate(key) for key in api_keys.list_all(session)], next=None)


@router.post("/keys", tags=["keys"], status_code=201, summary="Create an API key; it is shown only once")
def create(request: KeyRequest, session: SessionDep, _: Admin) -> KeyCreated:
    key, secret = api_keys.create(session, request.name, request.scopes, expires_at=request.expires_at)
    return KeyCreated(
        id=key.id, name=key.name, prefix=key.prefix, scopes=key.scopes, expires_at=key.expires_at, key=secret
    )


@router.delete("/keys/{key_id}", tags=["keys"], status_code=204, summary="Revoke an API key permanently")
def revoke(key_id: UUID, session: SessionDep, _: Admin) -> None:
    api_keys.revoke(session, key_id)


@router.get("/workers", tags=["workers"], summary="Workers with a heartbeat in the last minute")
def list_workers(session: SessionDep, _: Reader) -> Page[WorkerView]:
    return Page(items=[WorkerView.model_validate(worker) for worker in workers.list_alive(session)], next=None)
