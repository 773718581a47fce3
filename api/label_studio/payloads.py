"""Fields of Label Studio's bodies, checked by hand: the bodies are large and their fields vary with its version."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from api.errors import RequestInvalidError
from car.label_studio.task_requests import task_id_of

_PROJECT_KEY = re.compile(r"([0-9]{1,9})(\.[0-9]{1,12})?", re.ASCII)
_LONGEST_HOST = 2_000
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST = msgspec.json.Decoder(list[msgspec.Raw])


@dataclass(frozen=True)
class ProjectKey:
    """`{id}.{created_at in unix seconds}`: how Label Studio names a project."""

    number: int
    text: str


def read(body: bytes) -> dict[str, Any]:
    """Parse a JSON object. Tasks are parsed one by one: 60 MB at once would hold the interpreter's lock, and all
    other requests up, for half a second.

    Raises:
        RequestInvalidError: it is none.

    """
    try:
        fields = _OBJECT.decode(body)
        document: Any = {name: msgspec.json.decode(value) for name, value in fields.items() if name != "tasks"}
        if "tasks" in fields:
            document["tasks"] = [msgspec.json.decode(task) for task in _LIST.decode(fields["tasks"])]
    except (ValueError, RecursionError):
        try:
            document = json.loads(body)  # also accepts halves of surrogate pairs, which a task may hold
        except (ValueError, RecursionError) as error:
            raise RequestInvalidError("the body is not JSON") from error
    if not isinstance(document, dict):
        raise RequestInvalidError("the body must be a JSON object")
    return document


def parse_project_key(value: object) -> ProjectKey:
    """Raises: RequestInvalidError."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not (match := _PROJECT_KEY.fullmatch(text)):
        raise RequestInvalidError('"project" must name a project of Label Studio, like "2.1795220370"')
    return ProjectKey(int(match[1]), text if match[2] else "")


def webhook_project(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the project of a webhook's body.

    Raises:
        RequestInvalidError: there is none, or it has no id.

    """
    project = document.get("project")
    if not isinstance(project, dict) or task_id_of(project.get("id")) is None:
        raise RequestInvalidError('the body has no "project" with an id; let the webhook send its payload')
    return project


def webhook_project_key(project: Mapping[str, Any]) -> ProjectKey:
    """Return the key that /setup would send for a webhook's project."""
    number = int(project["id"])
    try:
        created = datetime.fromisoformat(str(project.get("created_at")))
    except ValueError:
        return ProjectKey(number, "")
    return ProjectKey(number, f"{number}.{int(created.timestamp())}" if created.tzinfo else "")


def parse_text(document: Mapping[str, Any], name: str) -> str:
    """Raises: RequestInvalidError."""
    value = document.get(name)
    if not isinstance(value, str):
        raise RequestInvalidError(f'"{name}" must be a string')
    return value


def parse_hostname(document: Mapping[str, Any]) -> str:
    """Return the URL that Label Studio has for itself, without a slash at its end; empty if it is not valid."""
    value = document.get("hostname")
    if isinstance(value, str) and value.startswith(("http://", "https://")) and len(value) <= _LONGEST_HOST:
        return value.rstrip("/") if value.isprintable() else ""
    return ""


def parse_extra_params(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the extra parameters: Label Studio's form sends them as text, its API as an object.

    Raises:
        RequestInvalidError: they are neither.

    """
    value = document.get("extra_params") or {}
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else {}
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, dict):
        raise RequestInvalidError(
            'the extra parameters of the model must be a JSON object, like {"background": ["wall"]}'
        )
    return value
