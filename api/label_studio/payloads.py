"""Bodies of Label Studio, read without trust: each part is what it must be, or is said to be missing."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic_core import from_json

from api.errors import BodyInvalidError
from car.label_studio.task_requests import task_id_of

_STAMP = re.compile(r"([0-9]{1,9})(\.[0-9]{1,12})?", re.ASCII)
_LONGEST_HOST = 2_000


@dataclass(frozen=True)
class ProjectKey:
    """`{id}.{created_at in unix seconds}`: how Label Studio names a project."""

    number: int
    text: str


def read(body: bytes) -> dict[str, Any]:
    """Raises: BodyInvalid."""
    try:
        document = from_json(body)
    except ValueError:
        document = _slowly(body)
    if not isinstance(document, dict):
        raise BodyInvalidError("the body must be a JSON object")
    return document


def _slowly(body: bytes) -> Any:  # noqa: ANN401 - JSON
    """Python's reader takes halves of surrogate pairs, which one task of a thousand may hold."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BodyInvalidError("the body is no JSON") from error


def stamp_of(value: object) -> ProjectKey:
    """Raises: BodyInvalid."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not (found := _STAMP.fullmatch(text)):
        raise BodyInvalidError('"project" must name a project of Label Studio, like "2.1795220370"')
    return ProjectKey(int(found[1]), text if found[2] else "")


def project_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """The project of a webhook's body.

    Raises:
        BodyInvalid: there is none, or without a number.

    """
    project = document.get("project")
    if not isinstance(project, dict) or task_id_of(project.get("id")) is None:
        raise BodyInvalidError('the body holds no "project" with an id; let the webhook send its payload')
    return project


def stamp_of_project(project: Mapping[str, Any]) -> ProjectKey:
    """As /setup would name it."""
    number = int(project["id"])
    try:
        created = datetime.fromisoformat(str(project.get("created_at")))
    except ValueError:
        return ProjectKey(number, "")
    return ProjectKey(number, f"{number}.{int(created.timestamp())}" if created.tzinfo else "")


def text_of(document: Mapping[str, Any], name: str) -> str:
    """Raises: BodyInvalid."""
    value = document.get(name)
    if not isinstance(value, str):
        raise BodyInvalidError(f'"{name}" must be a text')
    return value


def hostname_of(document: Mapping[str, Any]) -> str:
    """Label Studio's own idea of its address, without a slash at its end; empty where it has none."""
    value = document.get("hostname")
    is_address = isinstance(value, str) and value.startswith(("http://", "https://")) and len(value) <= _LONGEST_HOST
    return value.rstrip("/") if isinstance(value, str) and is_address and value.isprintable() else ""


def extra_params_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """As the form of Label Studio sends them, text, or as its API does, an object.

    Raises:
        BodyInvalid: neither.

    """
    value = document.get("extra_params") or {}
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else {}
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, dict):
        raise BodyInvalidError('the extra parameters of the model must be a JSON object, like {"background": ["wall"]}')
    return value
