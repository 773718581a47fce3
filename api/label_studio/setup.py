"""POST /setup: before every prediction Label Studio asks for the version, and tells what the project is now.

What of a configuration cannot be mapped is told beside the version, which is all that Label Studio reads. One with
which no mask could become a region is refused with 422: Label Studio then says, when the backend is added, that it
"might be incompatible with the current labeling configuration", and shows it in error later. A version instead would
look like success and stay without predictions for ever. The reason in words is in our log and on the project's page.
"""

from functools import partial

import structlog
from fastapi import APIRouter, Request

from api.label_studio import body as bodies
from api.label_studio.access import Speaker
from api.label_studio.face import Face, FaceDep
from api.label_studio.project import reason, version
from api.label_studio.weights import weights_of
from api.schemas.label_studio import ConfigProblem, SetUp, SetUpRequest, body
from car.errors import CarError, RecipeError, VocabularyError
from car.labeling_config import LabelingConfigError
from db import projects
from db.projects import Seen, Way
from db.session import transaction

router = APIRouter()
log = structlog.get_logger("api.label_studio")


@router.post(
    "/setup", summary="Which version Label Studio gets, and what it cannot get", openapi_extra=body(SetUpRequest)
)
async def setup(request: Request, face: FaceDep, _: Speaker) -> SetUp:
    """The version changes with the models, the recipe, the labels and the way masks become regions. Asked before every
    prediction, so it is answered in milliseconds, with all workers dead.
    """
    return await face.work(partial(_set_up, face, await request.body()))


def _set_up(face: Face, body: bytes) -> SetUp:
    document = bodies.read(body)
    stamp = bodies.stamp_of(document.get("project"))
    seen = Seen(
        instance=face.settings.label_studio_url or bodies.hostname_of(document),
        number=stamp.number,
        stamp=stamp.text,
        label_config=bodies.text_of(document, "schema"),
        extra_params=bodies.extra_params_of(document),
        way=Way.SETUP,
    )
    try:
        # Whatever a crash undoes here, Label Studio tells again before it asks for anything.
        with transaction(face.database, durable=False) as session:
            known = projects.note(session, seen, preset=face.settings.preset)
            weights = weights_of(session, face, known.plan.recipe)
    except (LabelingConfigError, RecipeError, VocabularyError) as error:
        _refuse(face, seen, error)
        raise
    problems = [ConfigProblem(code=one.code, detail=one.detail) for one in known.plan.problems]
    return SetUp(model_version=version(known, weights), problems=problems)


def _refuse(face: Face, seen: Seen, error: CarError) -> None:
    log.warning("project refused", project=seen.number, instance=seen.instance, code=error.code, reason=reason(error))
    with transaction(face.database, durable=False) as session:
        projects.refused(session, seen, code=error.code, detail=str(error))
