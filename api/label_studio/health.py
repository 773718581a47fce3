"""GET / and /health: the backend is there. Nothing is asked, so it is told in a millisecond while all else is dead;
/readyz says whether the rest is.
"""

from fastapi import APIRouter

from api.label_studio.auth import OptionalAuth
from api.schemas.label_studio import HealthResponse

router = APIRouter()


@router.get("/", summary="The backend is there")
async def root(_: OptionalAuth) -> HealthResponse:
    return HealthResponse(status="UP", model_class="CarLabeler")


@router.get("/health", summary="The backend is there, as Label Studio asks it")
async def health(_: OptionalAuth) -> HealthResponse:
    return HealthResponse(status="UP", model_class="CarLabeler")
