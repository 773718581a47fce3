"""Checks of Label Studio: reachable, tested version, valid token."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sqlalchemy import Engine, select

from car.errors import CarError
from cli.doctor.diagnoses import DIAGNOSES, Finding, diagnosed, good, skipped
from db.models import Project
from db.session import transaction

if TYPE_CHECKING:
    from worker.label_studio import LabelStudio

_TESTED = (1, 23)


def reached(studio: "LabelStudio") -> Finding:
    from worker.label_studio.errors import LabelStudioUnreachableError

    check = "Label Studio"
    try:
        version = studio.version()
    except LabelStudioUnreachableError as error:
        return diagnosed(check, "label_studio_unreachable", str(error))
    except CarError as error:
        return diagnosed(check, "not_label_studio", str(error))
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if not numbers:
        return diagnosed(check, "not_label_studio", f"{studio.url} reports no Label Studio version")
    if numbers < _TESTED:
        return diagnosed(check, "label_studio_old", f"{studio.url} runs {version}")
    return good(check, f"{version} at {studio.url}")


def token(studio: "LabelStudio") -> Finding:
    check = "token"
    try:
        user = studio.whoami()
    except CarError as error:
        if error.code in DIAGNOSES:
            return diagnosed(check, error.code, str(error))
        return diagnosed(check, "token_unknown", str(error))
    if studio.tokens.kind == "access":
        return diagnosed(check, "token_short_lived", "it expires within minutes")
    return good(check, f"{studio.tokens.kind} token of {user.get('email') or user.get('id')}")


def instances(engine: Engine, url: str) -> Iterator[Finding]:
    """Report projects that are stored under another Label Studio address."""
    check = "addresses"
    try:
        with transaction(engine) as session:
            rows = session.execute(
                select(Project.instance, Project.ls_project_id)
                .where(Project.instance != url)
                .order_by(Project.ls_project_id)
            ).all()
    except CarError as error:
        yield skipped(check, str(error))
        return
    if not rows:
        yield good(check, f"all projects are stored under {url}")
        return
    stored = ", ".join(f"project {row.ls_project_id} under {row.instance}" for row in rows[:5])
    yield diagnosed(check, "instance_differs", f"LABEL_STUDIO_URL is {url}, but {stored}")
