"""API keys and workers."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import Field

from api.schemas.common import FutureUtc, RequestModel, ResponseModel, Text
from db.api_keys import Scope


class KeyRequest(RequestModel):
    name: Annotated[Text, Field(min_length=1, max_length=200)] = Field(examples=["nightly export"])
    scopes: list[Scope] = Field(min_length=1, description="each includes the ones before it: read, write, admin")
    expires_at: FutureUtc | None = None


class _Key(ResponseModel):
    id: UUID
    name: str
    prefix: str = Field(description="the key's first characters", examples=["car_Zk3fW9aQ"])
    scopes: list[Scope]
    expires_at: datetime | None


class KeyView(_Key):
    revoked_at: datetime | None
    last_used_at: datetime | None
    created_at: datetime


class KeyCreated(_Key):
    key: str = Field(description="the key itself; it is not stored and cannot be shown again")


class WorkerView(ResponseModel):
    name: str
    queue: str
    device: str
    code_version: str
    finished: int = Field(description="items finished since it started")
    started_at: datetime
    seen_at: datetime
