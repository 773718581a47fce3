"""Which project a request of Label Studio belongs to, what it asks for, and its model version."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy.orm import Session

from api import local_models
from api.label_studio.context import BackendContext
from api.label_studio.payloads import ProjectKey
from car.errors import CarError, RecipeError, VocabularyError
from car.label_studio.labeling_config import LabelingConfigError
from car.model_version import label_studio_version
from car.recipe import Recipe
from db import model_registry
from db.errors import NotFoundError
from db.label_studio import projects
from db.label_studio.projects import ProjectPayload, RequestKind, ResolvedProject
from db.session import read_only, transaction

_QUERY_STRING = re.compile(r"\?\S+")

log = structlog.get_logger("api.label_studio")


@dataclass(frozen=True)
class UpsertedProject:
    """A project as Label Studio just sent it, and the weights that its results would be computed with."""

    project: ResolvedProject
    weights: Mapping[str, str] | None

    @property
    def version(self) -> str:
        """The model version in /setup, /predict and predictions that are written back."""
        config = self.project.config
        return label_studio_version(self.weights, config.recipe, config.vocabulary_digest, config.region_digest)


def upsert_project(
    backend: BackendContext,
    key: ProjectKey,
    label_config: str,
    *,
    kind: RequestKind,
    hostname: str = "",
    title: str | None = None,
    extra_params: Mapping[str, Any] | None = None,
) -> UpsertedProject:
    """Store what Label Studio sent, in a transaction of its own. Only /setup sends the `hostname` and the
    `extra_params`. Other requests belong to LABEL_STUDIO_URL, to the instance that /setup named before, or to one
    without an address until /setup names it.

    Raises:
        NotFoundError, ConflictError: the project's instance cannot be known.
        LabelingConfigError, RecipeError, VocabularyError: see db.label_studio.projects.upsert; the project's page
            shows the reason.

    """

    def payload(session: Session) -> ProjectPayload:
        instance = backend.settings.label_studio_url
        if instance is None:
            instance = hostname if kind is RequestKind.SETUP else _stored_instance(session, key)
        return ProjectPayload(
            instance=instance,
            ls_project_id=key.number,
            ls_project_key=key.text,
            label_config=label_config,
            title=title,
            extra_params=extra_params,
            kind=kind,
        )

    return _find_unchanged(backend, payload) or _store(backend, payload)


def expected_weights(session: Session, backend: BackendContext, recipe: Recipe) -> Mapping[str, str] | None:
    """Return the weights of the worker that can serve the recipe; without one, those of this machine's models. None if
    there are neither: then the first worker changes the model version.
    """
    return model_registry.weights_for(session, recipe) or local_models.weights(backend.settings.models, recipe)


def loggable(error: CarError) -> str:
    """Return the message without query strings, which hold signatures of presigned URLs."""
    return _QUERY_STRING.sub("?…", str(error))


def _find_unchanged(backend: BackendContext, payload: Callable[[Session], ProjectPayload]) -> UpsertedProject | None:
    """Return a project that is stored as it was sent: /setup comes before every prediction."""

    def query(session: Session) -> ResolvedProject | None:
        return projects.find_unchanged(session, payload(session), preset=backend.settings.preset)

    try:
        project = read_only(backend.probes, query)
    except (LabelingConfigError, RecipeError, VocabularyError):
        return None  # `_store` refuses it
    if project is None:
        return None
    return UpsertedProject(
        project, project.weights or local_models.weights(backend.settings.models, project.config.recipe)
    )


def _store(backend: BackendContext, payload: Callable[[Session], ProjectPayload]) -> UpsertedProject:
    # Not durable: Label Studio sends again whatever a crash undoes here.
    with transaction(backend.database, durable=False) as session:
        sent = payload(session)
        if sent.kind is RequestKind.SETUP:
            projects.set_instance(session, sent.ls_project_key, sent.instance)
        try:
            project = projects.upsert(session, sent, preset=backend.settings.preset)
        except (LabelingConfigError, RecipeError, VocabularyError) as error:
            refusal = error
            projects.record_problem(session, sent, code=error.code, detail=str(error))
        else:
            return UpsertedProject(project, expected_weights(session, backend, project.config.recipe))
    log.warning(
        "project refused", project=sent.ls_project_id, kind=str(sent.kind), code=refusal.code, reason=loggable(refusal)
    )
    raise refusal


def _stored_instance(session: Session, key: ProjectKey) -> str:
    row = projects.by_key(session, key.text) if key.text else None
    if row is None:
        try:
            row = projects.find(session, key.number).row
        except NotFoundError:
            return projects.UNKNOWN_INSTANCE
        if row.ls_project_key and key.text:  # another project with this id
            raise NotFoundError(
                f"project {key.text} was never set up here; save the backend in Label Studio again, or set "
                "LABEL_STUDIO_URL"
            )
    return row.instance
