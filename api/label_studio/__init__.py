"""The interface to Label Studio: the routes of an ML backend, at the root of the port.

GET / and /health · POST /setup, /predict, /webhook
"""

from fastapi import APIRouter

from api.label_studio import predict, setup, webhook
from api.label_studio.context import BackendContext

__all__ = ["BODY_PATHS", "BackendContext", "router"]

BODY_PATHS = ("/setup", "/predict", "/webhook")
"""Routes with large bodies: Label Studio sends all selected tasks in one."""

router = APIRouter(tags=["label studio"])
for module in (setup, predict, webhook):
    router.include_router(module.router)
