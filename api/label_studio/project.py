"""Which project Label Studio speaks of, what it asks for, and what its version is called."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy.orm import Session

from api.label_studio.body import Stamp
from api.label_studio.face import Face
from api.label_studio.weights import weights_of
from car.errors import CarError, RecipeError, VocabularyError
from car.labeling_config import LabelingConfigError
from car.model_version import label_studio_version
from db import projects
from db.errors import NotFound
from db.projects import Known, Seen, Way
from db.session import transaction

_QUERY = re.compile(r"\?\S+")

log = structlog.get_logger("api.label_studio")


@dataclass(frozen=True)
class Noted:
    """A project as it was just told, and the weights that its results would be of."""

    known: Known
    weights: Mapping[str, str] | None

    @property
    def version(self) -> str:
        """The one string of /setup, /predict and what is written back."""
        plan = self.known.plan
        return label_studio_version(self.weights, plan.recipe, plan.words, plan.regions)


def note(
    face: Face,
    stamp: Stamp,
    label_config: str,
    *,
    way: Way,
    hostname: str = "",
    title: str | None = None,
    extra_params: Mapping[str, Any] | None = None,
) -> Noted:
    """Take down what was told, in a transaction of its own. /setup alone tells the `hostname` and the `extra_params`;
    other ways are of a project that it told before, or of LABEL_STUDIO_URL; else of an instance without an address,
    until /setup tells it.

    Raises:
        NotFound, Conflict: it cannot be known whose project it is.
        LabelingConfigError, RecipeError, VocabularyError: see db.projects.note; the project's page has the reason.

    """
    refusal: CarError | None = None
    # Whatever a crash undoes here, Label Studio tells again before it asks for anything.
    with transaction(face.database, durable=False) as session:
        instance = face.settings.label_studio_url
        if instance is None:
            instance = hostname if way is Way.SETUP else _instance(session, stamp)
        if way is Way.SETUP:
            projects.adopt(session, stamp.text, instance)
        seen = Seen(
            instance=instance,
            number=stamp.number,
            stamp=stamp.text,
            label_config=label_config,
            title=title,
            extra_params=extra_params,
            way=way,
        )
        try:
            known = projects.note(session, seen, preset=face.settings.preset)
        except (LabelingConfigError, RecipeError, VocabularyError) as error:
            refusal = error
            projects.refused(session, seen, code=error.code, detail=str(error))
        else:
            return Noted(known, weights_of(session, face, known.plan.recipe))
    log.warning("project refused", project=stamp.number, way=str(way), code=refusal.code, reason=reason(refusal))
    raise refusal


def reason(error: CarError) -> str:
    """For the log, without what follows a question mark: signatures of presigned addresses."""
    return _QUERY.sub("?…", str(error))


def _instance(session: Session, stamp: Stamp) -> str:
    row = projects.by_stamp(session, stamp.text) if stamp.text else None
    if row is None:
        try:
            row = projects.find(session, stamp.number).row
        except NotFound:
            return projects.UNTOLD
        if row.stamp and stamp.text:  # another one of this number
            raise NotFound(
                f"project {stamp.text} was never set up here; save the backend in Label Studio again, or set "
                "LABEL_STUDIO_URL"
            )
    return row.instance
