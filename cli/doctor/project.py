"""Checks of one project: labels, ML backend, webhook and displayed predictions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from car.errors import CarError
from car.label_studio.labeling_config import LabelingConfigError
from car.label_studio.project_config import ProjectConfig, build_project_config
from cli.doctor.diagnoses import Finding, diagnosed, good, skipped
from cli.label_studio.backend_reconcile import (
    CONNECTED,
    DesiredBackend,
    Document,
    extra_params_of,
    own_backend,
    own_webhook,
    same_address,
    webhook_difference,
)
from db.errors import NotFoundError
from db.label_studio import project_queries, projects
from db.label_studio.project_queries import ProjectProgress
from db.models import ItemState, PredictionState
from db.session import transaction

if TYPE_CHECKING:
    from worker.label_studio import LabelStudio
    from worker.label_studio import Project as Theirs

_RESERVED = ("reserved network address", "was not allowed")
_PASSWORD = "authentication"  # noqa: S105 - a word of Label Studio's message


@dataclass(frozen=True)
class ConnectedProject:
    """A project in Label Studio with its ML backends."""

    studio: "LabelStudio"
    project: "Theirs"
    backends: Sequence[Document]
    desired: DesiredBackend
    """What `connect` would set."""

    @property
    def own(self) -> Document | None:
        return own_backend(self.backends, self.desired)


def config_of(project: ConnectedProject, preset: str) -> tuple[ProjectConfig | None, list[Finding]]:
    check = "labels"
    extra = extra_params_of(project.own) if project.own else {}
    try:
        config = build_project_config(project.project.label_config, extra, preset=preset)
    except LabelingConfigError as error:
        return None, [diagnosed(check, "labeling_config_invalid", str(error))]
    except CarError as error:
        return None, [diagnosed(check, "labeling_config_invalid", f"the backend's extra parameters: {error}")]
    if config.problems:
        return config, [diagnosed(check, "labels_unmapped", entry.detail) for entry in config.problems]
    words = "each task's own" if config.vocabulary is None else f"{len(config.vocabulary.labels)} labels"
    return config, [
        good(check, f"{words}, shown by {', '.join(sorted({str(entry.kind) for entry in config.config.controls}))}")
    ]


def backend(project: ConnectedProject) -> Iterator[Finding]:
    check = "ML backend"
    own = project.own
    if not project.backends:
        yield diagnosed(check, "backend_missing", f"project {project.project.number} has none")
        return
    if own is None or not same_address(str(own.get("url") or ""), project.desired.url):
        urls = ", ".join(str(entry.get("url")) for entry in project.backends)
        yield diagnosed(
            check, "backend_elsewhere", f"the project's is {urls}, and this service is {project.desired.url}"
        )
        return
    if project.backends[0].get("id") != own.get("id"):
        yield diagnosed(check, "backend_not_first", f"{project.backends[0].get('url')} comes before {own.get('url')}")
    if own.get("state") != CONNECTED:
        yield _connection_fault(project, own)
    else:
        yield good(check, f"{own.get('url')} is connected")
    if not own.get("is_interactive"):
        yield diagnosed("smart tools", "backend_passive", f"{own.get('title')!r} is not interactive")


def _connection_fault(backend: ConnectedProject, own: Document) -> Finding:
    """Find out why Label Studio cannot use the backend by storing it again unchanged."""
    check = "ML backend"
    message = str(own.get("error_message") or own.get("readable_state") or own.get("state"))
    if own.get("state") == "ER" and not any(words in message for words in _RESERVED):
        return diagnosed(check, "backend_error", f"{own.get('url')}: {message}")
    names = ("url", "project", "title", "auth_method", "basic_auth_user", "is_interactive", "extra_params")
    same = {name: own.get(name) for name in names} | {"project": backend.project.number, "basic_auth_pass": ""}
    if own.get("auth_method") != "BASIC_AUTH":
        same = {name: value for name, value in same.items() if not name.startswith("basic_auth")}
    try:
        backend.studio.change_backend(int(own["id"]), same)
    except CarError as error:
        message = str(error)
        if error.code == "backend_blocked":
            return diagnosed(check, "backend_blocked", f"{own.get('url')}: {message}")
        if _PASSWORD in message.lower():
            return diagnosed(check, "backend_password", f"{own.get('url')}: {message}")
    return diagnosed(check, "backend_disconnected", f"{own.get('url')}: {message}")


def webhook(project: ConnectedProject, *, heard: bool | None) -> Iterator[Finding]:
    """`heard`: whether a webhook request has ever arrived; None if unknown."""
    check = "webhook"
    try:
        hooks = project.studio.webhooks(project.project.number)
    except CarError as error:
        yield skipped(check, str(error))
        return
    own = own_webhook(hooks, project.desired)
    if own is None:
        similar = [entry for entry in hooks if str(entry.get("url") or "").rstrip("/").endswith("/webhook")]
        if similar:
            detail = f"it goes to {similar[0].get('url')}, and the backend is {project.desired.url}"
            yield diagnosed(check, "webhook_elsewhere", detail)
        else:
            yield diagnosed(check, "webhook_missing", f"none goes to {project.desired.webhook_url}")
        return
    wrong = set(webhook_difference(own, project.desired).fields)
    if wrong & {"is_active", "send_payload"}:
        yield diagnosed(check, "webhook_inactive", f"{own.get('url')}: {', '.join(sorted(wrong))}")
    if "headers" in wrong:
        yield diagnosed(check, "webhook_secret", f"{own.get('url')} sends a wrong X-Car-Token, or none")
    if "actions" in wrong and not own.get("send_for_all_actions"):
        yield diagnosed(
            check, "webhook_actions", f"{own.get('url')} sends {', '.join(own.get('actions') or ['nothing'])}"
        )
    if wrong & {"is_active", "send_payload", "headers"}:
        return
    if heard is False and (finding := _webhook_blocked(project, own)):
        yield finding
    else:
        yield good(check, f"{own.get('url')}" + ("" if heard else ", but it has not sent a request yet"))


def _webhook_blocked(project: ConnectedProject, own: Document) -> Finding | None:
    """Store the webhook again unchanged: Label Studio then reports a blocked private address."""
    names = ("url", "headers", "is_active", "send_payload", "send_for_all_actions", "actions")
    try:
        project.studio.change_webhook(int(own["id"]), {name: own.get(name) for name in names})
    except CarError as error:
        if error.code == "backend_blocked":
            return diagnosed("webhook", "webhook_blocked", f"{own.get('url')}: {error}")
    return None


def own_predictions(engine: Engine, url: str, number: int) -> tuple[ProjectProgress | None, Finding]:
    """Return the progress of the project as this service has stored it."""
    check = "project here"
    try:
        with transaction(engine) as session:
            stored = projects.find(session, number, url)
            progress = project_queries.progress(session, stored.row)
            session.expunge(progress.row)
    except NotFoundError as error:
        return None, diagnosed(check, "project_unknown", str(error))
    except CarError as error:
        return None, skipped(check, str(error))
    return progress, good(
        check, f"{progress.tasks:,} tasks, {progress.predictions.get(PredictionState.SENT, 0):,} predictions sent"
    )


def versions(project: ConnectedProject, version: str) -> Iterator[Finding]:
    """Compare the model version with the one Label Studio stores, predicts and shows to annotators."""
    check = "model version"
    own = project.own
    stored_version = str(own.get("model_version") or "") if own else ""
    if own is not None and own.get("state") == CONNECTED and stored_version != version:
        yield diagnosed(check, "version_differs", f"Label Studio: {stored_version or 'none'}; here: {version}")
    else:
        yield good(check, version)
    try:
        counts = project.studio.versions(project.project.number)
    except CarError as error:
        yield skipped("predictions", str(error))
        return
    old = {name: number for name, number in counts.items() if name != version and name.startswith("car-")}
    if old:
        detail = f"{sum(old.values()):,} of {len(old)} earlier versions, {counts.get(version, 0):,} of this one"
        yield diagnosed("predictions", "predictions_outdated", detail)
    else:
        yield good("predictions", f"{counts.get(version, 0):,} of this version in Label Studio")
    displayed_version = project.project.model_version
    if displayed_version and displayed_version not in (version, str(own.get("title")) if own else version):
        yield diagnosed("shown to annotators", "other_predictions_shown", f"the project shows {displayed_version!r}")


def failures(stored: ProjectProgress) -> Iterator[Finding]:
    unsent = stored.predictions.get(PredictionState.FAILED, 0)
    if unsent:
        reason = stored.unsent[0] if stored.unsent else None
        detail = f": task {reason.ls_task_id}: {reason.example} ({reason.code})" if reason else ""
        yield diagnosed("write-back", "predictions_failed", f"{unsent:,}{detail}")
    failed = sum(stored.items.get(state, 0) for state in (ItemState.FAILED, ItemState.DEAD))
    if failed:
        reason = stored.failed[0] if stored.failed else None
        detail = f": task {reason.ls_task_id}: {reason.example} ({reason.code})" if reason else ""
        yield diagnosed("images", "images_failed", f"{failed:,}{detail}")
