"""One project: what its configuration asks, its ML backend, its webhook, and whose predictions are shown."""

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
    """A project in Label Studio, with what belongs to it."""

    studio: "LabelStudio"
    project: "Theirs"
    backends: Sequence[Document]
    wish: DesiredBackend
    """As `connect` would have it."""

    @property
    def own(self) -> Document | None:
        return own_backend(self.backends, self.wish)


def plan_of(found: ConnectedProject, preset: str) -> tuple[ProjectConfig | None, list[Finding]]:
    check = "labels"
    extra = extra_params_of(found.own) if found.own else {}
    try:
        plan = build_project_config(found.project.label_config, extra, preset=preset)
    except LabelingConfigError as error:
        return None, [diagnosed(check, "labeling_config_invalid", str(error))]
    except CarError as error:
        return None, [diagnosed(check, "labeling_config_invalid", f"the backend's extra parameters: {error}")]
    if plan.problems:
        return plan, [diagnosed(check, "labels_unmapped", one.detail) for one in plan.problems]
    words = "each task's own" if plan.vocabulary is None else f"{len(plan.vocabulary.labels)} labels"
    return plan, [
        good(check, f"{words}, shown by {', '.join(sorted({str(one.kind) for one in plan.config.controls}))}")
    ]


def backend(found: ConnectedProject) -> Iterator[Finding]:
    check = "ML backend"
    own = found.own
    if not found.backends:
        yield diagnosed(check, "backend_missing", f"project {found.project.number} has none")
        return
    if own is None or not same_address(str(own.get("url") or ""), found.wish.url):
        there = ", ".join(str(one.get("url")) for one in found.backends)
        yield diagnosed(check, "backend_elsewhere", f"the project's is {there}, and this service is {found.wish.url}")
        return
    if found.backends[0].get("id") != own.get("id"):
        yield diagnosed(check, "backend_not_first", f"{found.backends[0].get('url')} comes before {own.get('url')}")
    if own.get("state") != CONNECTED:
        yield _unwell(found, own)
    else:
        yield good(check, f"{own.get('url')} is connected")
    if not own.get("is_interactive"):
        yield diagnosed("smart tools", "backend_passive", f"{own.get('title')!r} is not interactive")


def _unwell(found: ConnectedProject, own: Document) -> Finding:
    """Why Label Studio cannot use the backend: it says so where it is asked to store it once more, as it is."""
    check = "ML backend"
    said = str(own.get("error_message") or own.get("readable_state") or own.get("state"))
    if own.get("state") == "ER" and not any(words in said for words in _RESERVED):
        return diagnosed(check, "backend_error", f"{own.get('url')}: {said}")
    names = ("url", "project", "title", "auth_method", "basic_auth_user", "is_interactive", "extra_params")
    same = {name: own.get(name) for name in names} | {"project": found.project.number, "basic_auth_pass": ""}
    if own.get("auth_method") != "BASIC_AUTH":
        same = {name: value for name, value in same.items() if not name.startswith("basic_auth")}
    try:
        found.studio.change_backend(int(own["id"]), same)
    except CarError as error:
        said = str(error)
        if error.code == "backend_blocked":
            return diagnosed(check, "backend_blocked", f"{own.get('url')}: {said}")
        if _PASSWORD in said.lower():
            return diagnosed(check, "backend_password", f"{own.get('url')}: {said}")
    return diagnosed(check, "backend_disconnected", f"{own.get('url')}: {said}")


def webhook(found: ConnectedProject, *, heard: bool | None) -> Iterator[Finding]:
    """`heard`: whether one has ever come; None: nobody knows."""
    check = "webhook"
    try:
        hooks = found.studio.webhooks(found.project.number)
    except CarError as error:
        yield skipped(check, str(error))
        return
    own = own_webhook(hooks, found.wish)
    if own is None:
        near = [one for one in hooks if str(one.get("url") or "").rstrip("/").endswith("/webhook")]
        if near:
            detail = f"it goes to {near[0].get('url')}, and the backend is {found.wish.url}"
            yield diagnosed(check, "webhook_elsewhere", detail)
        else:
            yield diagnosed(check, "webhook_missing", f"none goes to {found.wish.webhook_url}")
        return
    wrong = set(webhook_difference(own, found.wish).fields)
    if wrong & {"is_active", "send_payload"}:
        yield diagnosed(check, "webhook_inactive", f"{own.get('url')}: {', '.join(sorted(wrong))}")
    if "headers" in wrong:
        yield diagnosed(check, "webhook_secret", f"{own.get('url')} sends another X-Car-Token, or none")
    if "actions" in wrong and not own.get("send_for_all_actions"):
        yield diagnosed(
            check, "webhook_actions", f"{own.get('url')} sends {', '.join(own.get('actions') or ['nothing'])}"
        )
    if wrong & {"is_active", "send_payload", "headers"}:
        return
    if heard is False and (finding := _blocked(found, own)):
        yield finding
    else:
        yield good(check, f"{own.get('url')}" + ("" if heard else ", from which nothing has come yet"))


def _blocked(found: ConnectedProject, own: Document) -> Finding | None:
    """Label Studio refuses a private address where the webhook is stored once more, as it is."""
    names = ("url", "headers", "is_active", "send_payload", "send_for_all_actions", "actions")
    try:
        found.studio.change_webhook(int(own["id"]), {name: own.get(name) for name in names})
    except CarError as error:
        if error.code == "backend_blocked":
            return diagnosed("webhook", "webhook_blocked", f"{own.get('url')}: {error}")
    return None


def ours(engine: Engine, url: str, number: int) -> tuple[ProjectProgress | None, Finding]:
    """What this service knows of the project."""
    check = "project here"
    try:
        with transaction(engine) as session:
            known = projects.find(session, number, url)
            found = project_queries.progress(session, known.row)
            session.expunge(found.row)
    except NotFoundError as error:
        return None, diagnosed(check, "project_unknown", str(error))
    except CarError as error:
        return None, skipped(check, str(error))
    return found, good(
        check, f"{found.tasks:,} tasks, {found.predictions.get(PredictionState.SENT, 0):,} predictions sent"
    )


def versions(found: ConnectedProject, version: str) -> Iterator[Finding]:
    """What Label Studio holds for our model version, and what it shows to annotators."""
    check = "model version"
    own = found.own
    theirs = str(own.get("model_version") or "") if own else ""
    if own is not None and own.get("state") == CONNECTED and theirs != version:
        yield diagnosed(check, "version_differs", f"Label Studio: {theirs or 'none'}; here: {version}")
    else:
        yield good(check, version)
    try:
        counts = found.studio.versions(found.project.number)
    except CarError as error:
        yield skipped("predictions", str(error))
        return
    old = {name: number for name, number in counts.items() if name != version and name.startswith("car-")}
    if old:
        detail = f"{sum(old.values()):,} of {len(old)} earlier versions, {counts.get(version, 0):,} of this one"
        yield diagnosed("predictions", "predictions_outdated", detail)
    else:
        yield good("predictions", f"{counts.get(version, 0):,} of this version in Label Studio")
    shown = found.project.model_version
    if shown and shown not in (version, str(own.get("title")) if own else version):
        yield diagnosed("shown to annotators", "other_predictions_shown", f"the project shows {shown!r}")


def failures(known: ProjectProgress) -> Iterator[Finding]:
    unsent = known.predictions.get(PredictionState.FAILED, 0)
    if unsent:
        reason = known.unsent[0] if known.unsent else None
        detail = f": task {reason.ls_task_id}: {reason.example} ({reason.code})" if reason else ""
        yield diagnosed("write-back", "predictions_failed", f"{unsent:,}{detail}")
    failed = sum(known.items.get(state, 0) for state in (ItemState.FAILED, ItemState.DEAD))
    if failed:
        reason = known.failed[0] if known.failed else None
        detail = f": task {reason.ls_task_id}: {reason.example} ({reason.code})" if reason else ""
        yield diagnosed("pictures", "pictures_failed", f"{failed:,}{detail}")
