"""The face to Label Studio: what its ML backends answer, at the root of this port.

GET / and /health · POST /setup, /predict, /webhook
"""

from fastapi import APIRouter

from api.label_studio import health, predict, setup, webhook
from api.label_studio.context import BackendContext

__all__ = ["ADDRESSES", "BackendContext", "router"]

ADDRESSES = ("/setup", "/predict", "/webhook")
"""Where Label Studio sends bodies, all tasks of a selection in one."""

router = APIRouter(tags=["label studio"])
for part in (health, setup, predict, webhook):
    router.include_router(part.router)
