"""The part of Label Studio's API that this service uses."""

import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self, cast

from db.settings import EngineSettings
from worker.label_studio.connection import Connection
from worker.label_studio.errors import (
    NotFoundError,
    NotLabelStudioError,
    OutcomeUncertainError,
    ProjectNotFoundError,
    RejectedError,
    TaskNotFoundError,
)


@dataclass(frozen=True, slots=True)
class Project:
    """A project's current settings."""

    number: int
    title: str
    label_config: str
    ls_project_key: str
    """The name that Label Studio gives it in requests to an ML backend: `{id}.{created_at in Unix seconds}`."""
    model_version: str
    """The model version, or the title of the ML backend, whose predictions annotators see."""


@dataclass(frozen=True, slots=True)
class TaskPage:
    """Tasks in the order of their ids. URLs in their data are as stored, not resolved."""

    tasks: tuple[tuple[int, object], ...]
    """Id and data."""
    total: int
    """Number of matching tasks on this page and all later ones."""


@dataclass(frozen=True, slots=True)
class StoredPrediction:
    """A prediction in Label Studio, without its regions."""

    id: int
    ls_project_id: int | None
    model_version: str


class LabelStudio(Connection):
    """A thread-safe client that acts as one user. Every method raises LabelStudioError."""

    @classmethod
    def from_settings(cls, settings: EngineSettings, *, connections: int = 8) -> Self | None:
        """Return the client of LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY; None unless both are set."""
        url, key = settings.label_studio_url, settings.label_studio_api_key
        return None if url is None or key is None else cls(url, key.get_secret_value(), connections=connections)

    def version(self) -> str:
        """Return Label Studio's version, such as `1.23.2`. It sends no token, which may have expired."""
        versions = self._object(self._read(self._send("GET", "/api/version/", None, None, None), safe=True))
        package = versions.get("label-studio-os-package")
        version = package.get("version") if isinstance(package, dict) else None
        return str(version or versions.get("release") or "")

    def whoami(self) -> dict[str, Any]:
        """Return the token's user, with at least id and email."""
        return self._object(self.ask("GET", "/api/current-user/whoami"))

    # Projects

    def project(self, number: int) -> Project:
        with _project_missing(number):
            return self._project(self.ask("GET", f"/api/projects/{number}/"))

    def projects(self) -> Iterator[Project]:
        """Yield the projects that the user sees, newest first."""
        for number in itertools.count(1):
            page = self._object(self.ask("GET", "/api/projects/", query={"page": number, "page_size": 100}))
            yield from map(self._project, self._list(page.get("results")))
            if not page.get("next"):
                return

    def set_model_version(self, number: int, model_version: str) -> None:
        """Show this version's predictions to the project's annotators.

        Raises: RejectedError, if the project has no prediction of it.
        """
        with _project_missing(number):
            self.ask("PATCH", f"/api/projects/{number}/", body={"model_version": model_version})

    def versions(self, number: int) -> dict[str, int]:
        """Return the number of a project's predictions by model version."""
        with _project_missing(number):
            counts = self._object(self.ask("GET", f"/api/projects/{number}/model-versions/"))
        return {version: self._number(counts, version) for version in counts}

    # Tasks

    def tasks(self, project: int, *, after: int = 0, limit: int = 500, lacking: str | None = None) -> TaskPage:
        """Return the tasks with an id above `after`; with `lacking`, only those without a prediction of that version.

        Keyset pagination: with page numbers, tasks would be skipped when others are deleted meanwhile.
        """
        rules: list[dict[str, Any]] = [
            {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": after}
        ]
        if lacking is not None:
            versions = "filter:tasks:predictions_model_versions"
            rules.append({"filter": versions, "operator": "not_contains", "type": "List", "value": [lacking]})
        filters = {"filters": {"conjunction": "and", "items": rules}, "ordering": ["tasks:id"]}
        page: dict[str, str | int] = {"project": project, "page_size": limit, "resolve_uri": "false"}
        with _project_missing(project):
            answer = self._object(self.ask("GET", "/api/tasks/", query=page | {"query": json.dumps(filters)}))
        tasks = tuple((self._number(task, "id"), task.get("data")) for task in self._list(answer.get("tasks")))
        return TaskPage(tasks, self._number(answer, "total"))

    def task(self, number: int) -> dict[str, Any]:
        """Return a task's data, with URLs as stored, not resolved."""
        try:
            task = self._object(self.ask("GET", f"/api/tasks/{number}/", query={"resolve_uri": "false"}))
        except NotFoundError as error:
            raise TaskNotFoundError(f"Label Studio has no task {number}") from error
        return self._object(task.get("data"))

    # Predictions

    def predictions(self, *, project: int, task: int) -> list[StoredPrediction]:
        """Return a task's predictions, oldest first. Raises: TaskNotFoundError, ProjectNotFoundError."""
        with _deleted(project=project, task=task):
            rows = self._list(self.ask("GET", "/api/predictions/", query={"task": task, "project": project}))
        return sorted(map(self._stored, rows), key=lambda prediction: prediction.id)

    def create_prediction(self, task: int, document: str) -> StoredPrediction:
        """Store a prediction from `document`, the JSON text of {"model_version", "score", "result"}. Not idempotent.

        Raises:
            TaskNotFoundError: it was deleted.
            RejectedError: Label Studio's validation failed.
            OutcomeUncertainError: it may have been stored, or be stored later; check before sending it again.

        """
        with _deleted(task=task):
            answer = self.ask("POST", "/api/predictions/", body=f'{{"task": {task}, ' + document.lstrip()[1:])
        try:
            return self._stored(answer)
        except NotLabelStudioError as error:
            raise OutcomeUncertainError(
                f"Label Studio's answer to a prediction of task {task} cannot be read"
            ) from error

    def delete_prediction(self, prediction: int) -> None:
        """Delete a prediction if it exists."""
        with suppress(NotFoundError):
            self.ask("DELETE", f"/api/predictions/{prediction}/")

    # ML backends, webhooks, storages: Label Studio's JSON

    def backends(self, project: int) -> list[dict[str, Any]]:
        """Return the project's ML backends. Label Studio first checks their health: up to a second for each."""
        with _project_missing(project):
            return self._list(self.ask("GET", "/api/ml/", query={"project": project}))

    def add_backend(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Add an ML backend. Label Studio calls its /health and /setup first, and adds a webhook.

        Raises:
            AddressBlockedError: SSRF protection; the backend may have been added, without its webhook.
            RejectedError: the backend's answers are wrong.

        """
        return self._object(self.ask("POST", "/api/ml/", body=dict(fields)))

    def change_backend(self, backend: int, fields: Mapping[str, Any]) -> dict[str, Any]:
        return self._object(self.ask("PATCH", f"/api/ml/{backend}", body=dict(fields)))

    def webhooks(self, project: int) -> list[dict[str, Any]]:
        return self._list(self.ask("GET", "/api/webhooks/", query={"project": project}))

    def add_webhook(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        return self._object(self.ask("POST", "/api/webhooks/", body=dict(fields)))

    def change_webhook(self, webhook: int, fields: Mapping[str, Any]) -> dict[str, Any]:
        return self._object(self.ask("PATCH", f"/api/webhooks/{webhook}/", body=dict(fields)))

    def storages(self, project: int) -> list[dict[str, Any]]:
        """Return a project's S3 source storages."""
        return self._list(self.ask("GET", "/api/storages/s3/", query={"project": project}))

    # Parsing

    def _project(self, answer: object) -> Project:
        row = self._object(answer)
        number = self._number(row, "id")
        created, title, config, version = (
            str(row.get(name) or "") for name in ("created_at", "title", "label_config", "model_version")
        )
        return Project(number, title, config, project_key(number, created), version)

    def _stored(self, answer: object) -> StoredPrediction:
        row = self._object(answer)
        project, version = row.get("project"), str(row.get("model_version") or "")
        return StoredPrediction(self._number(row, "id"), project if isinstance(project, int) else None, version)

    def _number(self, row: dict[str, Any], name: str) -> int:
        number = row.get(name)
        return number if isinstance(number, int) else self._refuse_answer()

    def _object(self, answer: object) -> dict[str, Any]:
        return answer if isinstance(answer, dict) else self._refuse_answer()

    def _list(self, answer: object) -> list[dict[str, Any]]:
        is_list = isinstance(answer, list) and all(isinstance(row, dict) for row in answer)
        return cast("list[dict[str, Any]]", answer) if is_list else self._refuse_answer()


def project_key(number: int, created_at: str) -> str:
    """Return a project's name in requests to an ML backend; "" if `created_at` cannot be parsed."""
    try:
        return f"{number}.{int(datetime.fromisoformat(created_at).timestamp())}"
    except ValueError:
        return ""


@contextmanager
def _project_missing(number: int) -> Iterator[None]:
    try:
        yield
    except NotFoundError as error:
        raise ProjectNotFoundError(
            f"Label Studio has no project {number} that this user can see; check the number and the user's membership"
        ) from error


@contextmanager
def _deleted(*, task: int, project: int | None = None) -> Iterator[None]:
    try:
        yield
    except RejectedError as error:
        if "task" in error.fields:
            raise TaskNotFoundError(f"task {task} has been deleted from Label Studio") from error
        if project is not None and "project" in error.fields:
            raise ProjectNotFoundError(f"project {project} has been deleted from Label Studio") from error
        raise
