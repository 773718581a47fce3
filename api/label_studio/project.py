"""Which project Label Studio speaks of, what it asks for, and what its version is called."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy.orm import Session

from api.label_studio.context import BackendContext
from api.label_studio.payloads import ProjectKey
from api.label_studio.weights import weights_beside, weights_of
from car.errors import CarError, RecipeError, VocabularyError
from car.label_studio.labeling_config import LabelingConfigError
from car.model_version import label_studio_version
from db.errors import NotFoundError
from db.label_studio import projects
from db.label_studio.projects import ProjectPayload, RequestKind, ResolvedProject
from db.session import read_only, transaction

_QUERY = re.compile(r"\?\S+")

log = structlog.get_logger("api.label_studio")


@dataclass(frozen=True)
class UpsertedProject:
    """A project as it was just told, and the weights that its results would be of."""

    known: ResolvedProject
    weights: Mapping[str, str] | None

    @property
    def version(self) -> str:
        """The one string of /setup, /predict and what is written back."""
        plan = self.known.plan
        return label_studio_version(self.weights, plan.recipe, plan.vocabulary_digest, plan.region_digest)


def upsert_project(
    face: BackendContext,
    stamp: ProjectKey,
    label_config: str,
    *,
    way: RequestKind,
    hostname: str = "",
    title: str | None = None,
    extra_params: Mapping[str, Any] | None = None,
) -> UpsertedProject:
    """Take down what was told, in a transaction of its own. /setup alone tells the `hostname` and the `extra_params`;
    other ways are of a project that it told before, or of LABEL_STUDIO_URL; else of an instance without an address,
    until /setup tells it.

    Raises:
        NotFoundError, ConflictError: it cannot be known whose project it is.
        LabelingConfigError, RecipeError, VocabularyError: see db.label_studio.projects.upsert; the project's page has
        the reason.

    """

    def seen_by(session: Session) -> ProjectPayload:
        instance = face.settings.label_studio_url
        if instance is None:
            instance = hostname if way is RequestKind.SETUP else _instance(session, stamp)
        return ProjectPayload(
            instance=instance,
            ls_project_id=stamp.number,
            ls_project_key=stamp.text,
            label_config=label_config,
            title=title,
            extra_params=extra_params,
            kind=way,
        )

    return _standing(face, seen_by) or _taken_down(face, seen_by)


def _standing(face: BackendContext, seen_by: Callable[[Session], ProjectPayload]) -> UpsertedProject | None:
    """Where Label Studio tells what it told before, as it mostly does: /setup comes before every prediction."""

    def question(session: Session) -> ResolvedProject | None:
        return projects.find_unchanged(session, seen_by(session), preset=face.settings.preset)

    try:
        standing = read_only(face.glances, question)
    except (LabelingConfigError, RecipeError, VocabularyError):
        return None  # refused once more by who takes it down
    if standing is None:
        return None
    return UpsertedProject(standing, weights_beside(standing.weights, face, standing.plan.recipe))


def _taken_down(face: BackendContext, seen_by: Callable[[Session], ProjectPayload]) -> UpsertedProject:
    # Whatever a crash undoes here, Label Studio tells again before it asks for anything.
    with transaction(face.database, durable=False) as session:
        seen = seen_by(session)
        if seen.kind is RequestKind.SETUP:
            projects.set_instance(session, seen.ls_project_key, seen.instance)
        try:
            known = projects.upsert(session, seen, preset=face.settings.preset)
        except (LabelingConfigError, RecipeError, VocabularyError) as error:
            refusal = error
            projects.record_problem(session, seen, code=error.code, detail=str(error))
        else:
            return UpsertedProject(known, weights_of(session, face, known.plan.recipe))
    log.warning(
        "project refused", project=seen.ls_project_id, way=str(seen.kind), code=refusal.code, reason=reason(refusal)
    )
    raise refusal


def reason(error: CarError) -> str:
    """For the log, without what follows a question mark: signatures of presigned addresses."""
    return _QUERY.sub("?…", str(error))


def _instance(session: Session, stamp: ProjectKey) -> str:
    row = projects.by_key(session, stamp.text) if stamp.text else None
    if row is None:
        try:
            row = projects.find(session, stamp.number).row
        except NotFoundError:
            return projects.UNKNOWN_INSTANCE
        if row.ls_project_key and stamp.text:  # another one of this number
            raise NotFoundError(
                f"project {stamp.text} was never set up here; save the backend in Label Studio again, or set "
                "LABEL_STUDIO_URL"
            )
    return row.instance
