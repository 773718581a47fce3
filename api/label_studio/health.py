"""GET / and /health: the backend is there. Nothing is asked, so it is told in a millisecond while all else is dead;
/readyz says whether the rest is.
"""

from fastapi import APIRouter

from api.label_studio.access import Visitor
from api.schemas.label_studio import Up

router = APIRouter()


@router.get("/", summary="The backend is there")
async def root(_: Visitor) -> Up:
    return Up(status="UP", model_class="CarLabeler")


@router.get("/health", summary="The backend is there, as Label Studio asks it")
async def health(_: Visitor) -> Up:
    return Up(status="UP", model_class="CarLabeler")
