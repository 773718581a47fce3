"""POST /setup: before every prediction Label Studio asks for the version, and tells what the project is now.

What of a configuration cannot be mapped is told beside the version, which is all that Label Studio reads. One with
which no mask could become a region is refused with 422: Label Studio then says, when the backend is added, that it
"might be incompatible with the current labeling configuration", and shows it in error later. A version instead would
look like success and stay without predictions for ever. The reason in words is in our log and on the project's page.
"""

from functools import partial

from fastapi import APIRouter, Request

from api.label_studio import payloads as bodies
from api.label_studio.auth import BackendAuth
from api.label_studio.context import BackendContext, BackendContextDep
from api.label_studio.project import upsert_project
from api.schemas.label_studio import ConfigProblem, SetupRequest, SetupResponse, body
from db.label_studio.projects import RequestKind

router = APIRouter()


@router.post(
    "/setup", summary="Which version Label Studio gets, and what it cannot get", openapi_extra=body(SetupRequest)
)
async def setup(request: Request, face: BackendContextDep, _: BackendAuth) -> SetupResponse:
    """The version changes with the models, the recipe, the labels and the way masks become regions. Asked before every
    prediction, so it is answered in milliseconds, with all workers dead.
    """
    given = await request.body()
    return await face.run_probe(partial(_set_up, face, given), request.receive)


def _set_up(face: BackendContext, body: bytes) -> SetupResponse:
    document = bodies.read(body)
    noted = upsert_project(
        face,
        bodies.stamp_of(document.get("project")),
        bodies.text_of(document, "schema"),
        way=RequestKind.SETUP,
        hostname=bodies.hostname_of(document),
        extra_params=bodies.extra_params_of(document),
    )
    problems = [ConfigProblem(code=one.code, detail=one.detail) for one in noted.known.plan.problems]
    return SetupResponse(model_version=noted.version, problems=problems)
