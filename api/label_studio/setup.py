"""GET / and /health, POST /setup: what Label Studio asks before it asks for predictions.

Before every prediction Label Studio sends the project as it is now and reads the model version. Parts of a
configuration that cannot be mapped are listed beside it. A configuration of which no mask could become a region is
refused with 422: Label Studio then says, when the backend is added, that it "might be incompatible with the current
labeling configuration", and later shows the backend in error. A version would look like success, and the project would
stay without predictions. The reason is in our log and on the project's page.
"""

from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse

from api.label_studio import payloads
from api.label_studio.auth import BackendAuth, OptionalAuth
from api.label_studio.context import BackendContext, BackendContextDep
from api.label_studio.project import upsert_project
from api.schemas.common import ConfigProblem
from api.schemas.label_studio import HealthResponse, SetupRequest, SetupResponse, request_body
from db.label_studio.projects import RequestKind

router = APIRouter()


@router.get("/", summary="The backend is up; a browser is sent to /docs", response_model=HealthResponse)
async def root(request: Request, auth: OptionalAuth) -> HealthResponse | RedirectResponse:
    """As /health, but redirect a client that accepts HTML to the API reference."""
    if "text/html" in request.headers.get("accept", ""):
        return RedirectResponse("/docs", headers={"Vary": "Accept"})
    return await health(auth)


@router.get("/health", summary="The backend is up, for Label Studio")
async def health(_: OptionalAuth) -> HealthResponse:
    """Reads nothing and answers in a millisecond; /readyz checks the services."""
    return HealthResponse(status="UP", model_class="CarLabeler")


@router.post("/setup", summary="The model version, and what cannot be mapped", openapi_extra=request_body(SetupRequest))
async def setup(request: Request, backend: BackendContextDep, _: BackendAuth) -> SetupResponse:
    """The version changes with the models, the recipe, the labels and the format of regions. Answered in milliseconds,
    without any worker.
    """
    body = await request.body()
    return await backend.probe_limit.run(partial(_set_up, backend, body), request.receive)


def _set_up(backend: BackendContext, body: bytes) -> SetupResponse:
    document = payloads.read(body)
    upserted = upsert_project(
        backend,
        payloads.parse_project_key(document.get("project")),
        payloads.parse_text(document, "schema"),
        kind=RequestKind.SETUP,
        hostname=payloads.parse_hostname(document),
        extra_params=payloads.parse_extra_params(document),
    )
    problems = [ConfigProblem(code=problem.code, detail=problem.detail) for problem in upserted.project.config.problems]
    return SetupResponse(model_version=upserted.version, problems=problems)
