"""Label Studio's API as far as this service uses it."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn, Self

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
    """A project as Label Studio shows it now."""

    number: int
    title: str
    label_config: str
    stamp: str
    """`{id}.{created_at in unix seconds}`, as it names itself to an ML backend."""
    model_version: str
    """Whose predictions annotators see: a version, or an ML backend's title."""


@dataclass(frozen=True, slots=True)
class TaskPage:
    """Tasks in the order of their ids, as they are stored: addresses in their data are not resolved."""

    tasks: tuple[tuple[int, object], ...]
    """Id and data."""
    total: int
    """Of the tasks that were asked for, this page and all after it."""


@dataclass(frozen=True, slots=True)
class StoredPrediction:
    """A prediction in Label Studio, without its regions."""

    number: int
    task: int
    project: int | None
    model_version: str


class LabelStudio(Connection):
    """Label Studio as one of its users; safe to use from many threads. Every method raises LabelStudioError."""

    @classmethod
    def of(cls, settings: EngineSettings, *, connections: int = 8) -> Self | None:
        """The one that LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY name; None where either is not set."""
        url, key = settings.label_studio_url, settings.label_studio_api_key
        return None if url is None or key is None else cls(url, key.get_secret_value(), connections=connections)

    def version(self) -> str:
        """`1.23.2`; needs no token."""
        # Not by `ask`: a token that has expired must not hide that Label Studio is there.
        told = self._object(self._read(self._send("GET", "/api/version/", None, None, None), safe=True))
        package = told.get("label-studio-os-package")
        version = package.get("version") if isinstance(package, dict) else None
        return str(version or told.get("release") or "")

    def whoami(self) -> dict[str, Any]:
        """The token's user: at least id and email."""
        return self._object(self.ask("GET", "/api/current-user/whoami"))

    # Projects

    def project(self, number: int) -> Project:
        with _project_missing(number):
            return self._project(self.ask("GET", f"/api/projects/{number}/"))

    def projects(self) -> Iterator[Project]:
        """Those that the user sees, the newest first."""
        page = 1
        while True:
            told = self._object(self.ask("GET", "/api/projects/", query={"page": page, "page_size": 100}))
            yield from map(self._project, self._list(told.get("results")))
            if not told.get("next"):
                return
            page += 1

    def set_model_version(self, number: int, model_version: str) -> None:
        """Annotators of the project see the predictions of this version from now on.

        Raises:
            Rejected: the project has no prediction of it.

        """
        with _project_missing(number):
            self.ask("PATCH", f"/api/projects/{number}/", body={"model_version": model_version})

    def versions(self, number: int) -> dict[str, int]:
        """Predictions of a project, counted by model version."""
        with _project_missing(number):
            told = self._object(self.ask("GET", f"/api/projects/{number}/model-versions/"))
        return {version: self._number(told, version) for version in told}

    # Tasks

    def tasks(self, project: int, *, after: int = 0, limit: int = 500, lacking: str | None = None) -> TaskPage:
        """The tasks that follow the one called `after`; with `lacking`, those without a prediction of that version.

        A page by number would skip tasks when others are deleted meanwhile; one by id does not.
        """
        rules: list[dict[str, Any]] = [
            {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": after}
        ]
        if lacking is not None:
            versions = "filter:tasks:predictions_model_versions"
            rules.append({"filter": versions, "operator": "not_contains", "type": "List", "value": [lacking]})
        wanted = {"filters": {"conjunction": "and", "items": rules}, "ordering": ["tasks:id"]}
        page: dict[str, str | int] = {"project": project, "page_size": limit, "resolve_uri": "false"}
        with _project_missing(project):
            told = self._object(self.ask("GET", "/api/tasks/", query=page | {"query": json.dumps(wanted)}))
        tasks = tuple((self._number(one, "id"), one.get("data")) for one in self._list(told.get("tasks")))
        return TaskPage(tasks, self._number(told, "total"))

    def task(self, number: int) -> dict[str, Any]:
        """A task's data, its addresses not resolved."""
        try:
            told = self._object(self.ask("GET", f"/api/tasks/{number}/", query={"resolve_uri": "false"}))
        except NotFoundError as error:
            raise TaskNotFoundError(f"Label Studio has no task {number}") from error
        return self._object(told.get("data"))

    # Predictions

    def predictions(self, *, project: int, task: int) -> list[StoredPrediction]:
        """Those of a task, the oldest first.

        Raises:
            TaskMissing, ProjectMissing: it was deleted.

        """
        try:
            told = self.ask("GET", "/api/predictions/", query={"task": task, "project": project})
        except RejectedError as error:
            if "task" in error.fields:
                raise TaskNotFoundError(f"Label Studio has no task {task} any more") from error
            if "project" in error.fields:
                raise ProjectNotFoundError(f"Label Studio has no project {project} any more") from error
            raise
        return sorted(map(self._stored, self._list(told)), key=lambda one: one.number)

    def create_prediction(self, task: int, document: str) -> StoredPrediction:
        """Store a prediction: `document` is the JSON text of {"model_version", "score", "result"}. Label Studio stores
        one more each time.

        Raises:
            TaskMissing: it was deleted.
            Rejected: Label Studio's own validation.
            OutcomeUncertain: it may have been stored, or be stored in a while; look before sending it again.

        """
        try:
            told = self.ask("POST", "/api/predictions/", body=f'{{"task": {task}, ' + document.lstrip()[1:])
        except RejectedError as error:
            if "task" in error.fields:
                raise TaskNotFoundError(f"Label Studio has no task {task} any more") from error
            raise
        try:
            return self._stored(told)
        except NotLabelStudioError as error:
            raise OutcomeUncertainError(
                f"Label Studio's answer to a prediction of task {task} cannot be read"
            ) from error

    def delete_prediction(self, prediction: int) -> None:
        """Delete a prediction; one that is not there is fine."""
        try:
            self.ask("DELETE", f"/api/predictions/{prediction}/")
        except NotFoundError:
            return

    # ML backends, webhooks, storages: as Label Studio shows them

    def backends(self, project: int) -> list[dict[str, Any]]:
        """The project's ML backends. It looks after their health first, which may take a second for each."""
        with _project_missing(project):
            return self._list(self.ask("GET", "/api/ml/", query={"project": project}))

    def add_backend(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Label Studio asks /health and /setup before it answers, and makes a webhook beside it.

        Raises:
            AddressBlocked: SSRF protection; the backend may be there all the same, without its webhook.
            Rejected: it did not answer well.

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
        """S3 source storages of a project."""
        return self._list(self.ask("GET", "/api/storages/s3/", query={"project": project}))

    # Answers read

    def _project(self, told: object) -> Project:
        row = self._object(told)
        number = self._number(row, "id")
        created, title, config, shown = (
            str(row.get(name) or "") for name in ("created_at", "title", "label_config", "model_version")
        )
        return Project(number, title, config, stamp(number, created), shown)

    def _stored(self, told: object) -> StoredPrediction:
        row = self._object(told)
        project, version = row.get("project"), str(row.get("model_version") or "")
        number, task = self._number(row, "id"), self._number(row, "task")
        return StoredPrediction(number, task, project if isinstance(project, int) else None, version)

    def _number(self, row: dict[str, Any], name: str) -> int:
        number = row.get(name)
        return number if isinstance(number, int) else self._strange()

    def _object(self, told: object) -> dict[str, Any]:
        return told if isinstance(told, dict) else self._strange()

    def _list(self, told: object) -> list[dict[str, Any]]:
        return told if isinstance(told, list) and all(isinstance(one, dict) for one in told) else self._strange()

    def _strange(self) -> NoReturn:
        raise NotLabelStudioError(f"what answers at {self.url} is no Label Studio; check LABEL_STUDIO_URL and its path")


def stamp(number: int, created_at: str) -> str:
    """How a project names itself to an ML backend; empty where its time cannot be read."""
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
            f"Label Studio shows no project {number} to this user; check the number, and that the user is a member"
        ) from error
