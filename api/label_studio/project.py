"""Which project Label Studio speaks of, what it asks for, and what its version is called."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy.orm import Session

from api.label_studio.body import Stamp
from api.label_studio.face import Face
from api.label_studio.weights import weights_beside, weights_of
from car.errors import CarError, RecipeError, VocabularyError
from car.labeling_config import LabelingConfigError
from car.model_version import label_studio_version
from db import projects
from db.errors import NotFound
from db.projects import Known, Seen, Standing, Way
from db.session import look, transaction

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

    def seen_by(session: Session) -> Seen:
        instance = face.settings.label_studio_url
        if instance is None:
            instance = hostname if way is Way.SETUP else _instance(session, stamp)
        return Seen(
            instance=instance,
            number=stamp.number,
            stamp=stamp.text,
            label_config=label_config,
            title=title,
            extra_params=extra_params,
            way=way,
        )

    return _standing(face, seen_by) or _taken_down(face, seen_by)


def _standing(face: Face, seen_by: Callable[[Session], Seen]) -> Noted | None:
    """Where Label Studio tells what it told before, as it mostly does: /setup comes before every prediction."""

    def question(session: Session) -> Standing | None:
        return projects.standing(session, seen_by(session), preset=face.settings.preset)

    try:
        standing = look(face.glances, question)
    except (LabelingConfigError, RecipeError, VocabularyError):
        return None  # refused once more by who takes it down
    if standing is None:
        return None
    known = standing.known
    return Noted(known, weights_beside(standing.weights, face, known.plan.recipe))


def _taken_down(face: Face, seen_by: Callable[[Session], Seen]) -> Noted:
    # Whatever a crash undoes here, Label Studio tells again before it asks for anything.
    with transaction(face.database, durable=False) as session:
        seen = seen_by(session)
        if seen.way is Way.SETUP:
            projects.adopt(session, seen.stamp, seen.instance)
        try:
            known = projects.note(session, seen, preset=face.settings.preset)
        except (LabelingConfigError, RecipeError, VocabularyError) as error:
            refusal = error
            projects.refused(session, seen, code=error.code, detail=str(error))
        else:
            return Noted(known, weights_of(session, face, known.plan.recipe))
    log.warning("project refused", project=seen.number, way=str(seen.way), code=refusal.code, reason=reason(refusal))
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
