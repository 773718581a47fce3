"""Which project Label Studio speaks of, and what its version is called."""

import re
from collections.abc import Mapping

from sqlalchemy.orm import Session

from api.label_studio.body import Stamp
from api.label_studio.face import Face
from car.errors import CarError
from car.model_version import label_studio_version
from db import projects
from db.errors import NotFound
from db.projects import Known, Seen, Way

_QUERY = re.compile(r"\?\S+")


def noted(
    session: Session, face: Face, stamp: Stamp, label_config: str, *, way: Way, title: str | None = None
) -> Known:
    """By ways that do not tell the instance: of a project that /setup told, or of LABEL_STUDIO_URL.

    Raises:
        NotFound, Conflict: it cannot be known whose project it is.
        LabelingConfigError, RecipeError, VocabularyError: see db.projects.note.

    """
    instance = face.settings.label_studio_url or _instance(session, stamp)
    seen = Seen(
        instance=instance, number=stamp.number, stamp=stamp.text, label_config=label_config, title=title, way=way
    )
    return projects.note(session, seen, preset=face.settings.preset)


def version(known: Known, weights: Mapping[str, str] | None) -> str:
    """The one string of /setup, /predict and what is written back."""
    return label_studio_version(weights, known.plan.recipe, known.plan.words, known.plan.regions)


def reason(error: CarError) -> str:
    """For the log, without what follows a question mark: signatures of presigned addresses."""
    return _QUERY.sub("?…", str(error))


def _instance(session: Session, stamp: Stamp) -> str:
    row = projects.by_stamp(session, stamp.text) if stamp.text else None
    if row is None:
        row = projects.find(session, stamp.number).row
        if row.stamp and stamp.text:  # another one of this number
            raise NotFound(
                f"project {stamp.text} was never set up here; save the backend in Label Studio again, or set "
                "LABEL_STUDIO_URL"
            )
    return row.instance
