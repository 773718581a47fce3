"""Create a project's ML backend and webhook in Label Studio, or change what differs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from cli.label_studio.errors import BackendBlockedError, BackendRefusedError

ACTIONS = (
    "ANNOTATIONS_CREATED",
    "ANNOTATIONS_DELETED",
    "ANNOTATION_CREATED",
    "ANNOTATION_UPDATED",
    "PROJECT_UPDATED",
    "TASKS_CREATED",
    "TASKS_DELETED",
)
"""What the webhook sends; in order, to be compared."""
SECRET_HEADER = "X-Car-Token"  # noqa: S105 - the header's name
CONNECTED = "CO"
"""A backend whose /health and /setup have just answered."""
_TITLE = "CaR Labeler"

Document = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class DesiredBackend:
    """How a project is to be connected."""

    project: int
    url: str
    """This service as Label Studio reaches it, without a slash at its end."""
    title: str | None = None
    """None: as it is, or the usual one."""
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    extra_params: Mapping[str, Any] = field(default_factory=dict)
    """Laid over those that are there."""
    secret: str | None = field(default=None, repr=False)
    """Of the webhook."""

    @property
    def webhook_url(self) -> str:
        return f"{self.url}/webhook"


@dataclass(frozen=True)
class Difference:
    """The body to send, and the fields in which the present object differs; empty `fields` mean no difference."""

    body: dict[str, Any]
    fields: tuple[str, ...]


def own_backend(backends: Sequence[Document], desired: DesiredBackend) -> Document | None:
    """Return the backend that is this service, found by its address or else by its title."""
    for one in backends:
        if same_address(str(one.get("url") or ""), desired.url):
            return one
    title = desired.title or _TITLE
    return next((one for one in backends if one.get("title") == title), None)


def backend_difference(backend: Document | None, desired: DesiredBackend) -> Difference:
    """`body` is always complete: Label Studio validates a change like a new backend."""
    backend = backend or {}
    params = extra_params_of(backend)
    body: dict[str, Any] = {
        "project": desired.project,
        "url": desired.url,
        "title": desired.title or backend.get("title") or _TITLE,
        "is_interactive": True,
        "extra_params": {**params, **desired.extra_params},
        "auth_method": "BASIC_AUTH" if desired.user else "NONE",
    }
    present = {**backend, "extra_params": params}
    fields = [name for name, value in body.items() if name not in ("project", "url") and present.get(name) != value]
    if not same_address(str(backend.get("url") or ""), desired.url):
        fields.append("url")
    if desired.user:
        body |= {"basic_auth_user": desired.user, "basic_auth_pass": desired.password}
        if backend.get("basic_auth_user") != desired.user:
            fields.append("basic_auth_user")
        # The password cannot be read; a backend that responds has the right one.
        if not backend.get("basic_auth_pass_is_set") or backend.get("state") != CONNECTED:
            fields.append("basic_auth_pass")
    return Difference(body, tuple(fields))


def extra_params_of(backend: Document) -> dict[str, Any]:
    """Return a JSON object, also one written as text, as Label Studio's form does. Anything else counts as empty."""
    given = backend.get("extra_params")
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            return {}
    return dict(given) if isinstance(given, Mapping) else {}


def own_webhook(webhooks: Sequence[Document], desired: DesiredBackend) -> Document | None:
    return next((one for one in webhooks if same_address(str(one.get("url") or ""), desired.webhook_url)), None)


def webhook_difference(webhook: Document | None, desired: DesiredBackend) -> Difference:
    """`body` always has the actions: a change without them would remove all."""
    webhook = webhook or {}
    headers = dict(webhook.get("headers") or {})
    if desired.secret:
        headers = {name: value for name, value in headers.items() if name.lower() != SECRET_HEADER.lower()}
        headers[SECRET_HEADER] = desired.secret
    body: dict[str, Any] = {
        "project": desired.project,
        "url": webhook.get("url") or desired.webhook_url,
        "is_active": True,
        "send_payload": True,
        "send_for_all_actions": False,
        "actions": list(ACTIONS),
        "headers": headers,
    }
    present = {**webhook, "actions": sorted(webhook.get("actions") or ()), "headers": webhook.get("headers") or {}}
    return Difference(body, tuple(name for name, value in body.items() if present.get(name) != value))


def same_address(first: str, other: str) -> bool:
    return first.rstrip("/").lower() == other.rstrip("/").lower()


if TYPE_CHECKING:
    from worker.label_studio import LabelStudio

_SSRF = (
    "Label Studio does not call private addresses by itself. Start it with both of\n"
    "  ML_BLOCK_LOCAL_IP=false          for the ML backend\n"
    "  SSRF_PROTECTION_ENABLED=false    for its webhook\n"
    "in its environment, or give this service a public address (--url)"
)


class ReconcileAction(StrEnum):
    MADE = "made"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    ABSENT = "absent"
    """Not wanted."""


@dataclass(frozen=True)
class ReconcileResult:
    """What was done with a backend or a webhook."""

    how: ReconcileAction
    fields: tuple[str, ...] = ()
    """That were changed."""
    document: Document | None = None
    """As Label Studio shows it afterwards."""

    def to_json(self) -> dict[str, Any]:
        number = self.document.get("id") if self.document else None
        return {"id": number, "how": str(self.how), "fields": list(self.fields)}


def connect_backend(studio: "LabelStudio", desired: DesiredBackend) -> ReconcileResult:
    """Raises: BackendBlockedError, BackendRefusedError, LabelStudioError."""
    from worker.label_studio.errors import AddressBlockedError, RejectedError

    found = own_backend(studio.backends(desired.project), desired)
    wanted = backend_difference(found, desired)
    if found is not None and not wanted.fields and found.get("state") == CONNECTED:
        return ReconcileResult(ReconcileAction.UNCHANGED, document=found)
    try:
        if found is None:
            outcome = ReconcileResult(ReconcileAction.MADE, document=studio.add_backend(wanted.body))
        else:
            changed = studio.change_backend(int(found["id"]), wanted.body)
            outcome = ReconcileResult(ReconcileAction.CHANGED, wanted.fields, changed)
    except AddressBlockedError as error:
        raise _blocked(studio, desired, str(error)) from error
    except RejectedError as error:
        raise BackendRefusedError(_refusal(desired, str(error))) from error
    _require_connected(outcome, desired)
    return outcome


def connect_webhook(studio: "LabelStudio", desired: DesiredBackend) -> ReconcileResult:
    """Return the webhook at the backend's address. Label Studio creates one with each backend, for all actions and
    without a secret.

    Raises: BackendBlockedError, LabelStudioError.
    """
    from worker.label_studio.errors import AddressBlockedError, RejectedError

    found = own_webhook(studio.webhooks(desired.project), desired)
    wanted: Difference = webhook_difference(found, desired)
    if found is not None and not wanted.fields:
        return ReconcileResult(ReconcileAction.UNCHANGED, document=found)
    try:
        if found is None:
            return ReconcileResult(ReconcileAction.MADE, document=studio.add_webhook(wanted.body))
        return ReconcileResult(
            ReconcileAction.CHANGED, wanted.fields, studio.change_webhook(int(found["id"]), wanted.body)
        )
    except AddressBlockedError as error:
        said = str(error).partition("; set ML_")[0]
        raise BackendBlockedError(f"the webhook {desired.webhook_url}: {said}. {_SSRF}") from error
    except RejectedError as error:
        raise BackendRefusedError(f"Label Studio refuses the webhook {desired.webhook_url}: {error}") from error


def others(studio: "LabelStudio", desired: DesiredBackend, own: ReconcileResult) -> list[Document]:
    """Return the backends that come before ours: Label Studio asks only the first."""
    before: list[Document] = []
    for one in studio.backends(desired.project):
        if own.document is not None and one.get("id") == own.document.get("id"):
            return before
        before.append(one)
    return before


def _blocked(studio: "LabelStudio", desired: DesiredBackend, said: str) -> BackendBlockedError:
    """With only the first variable the backend is created, although the response is a refusal."""
    made = any(same_address(str(one.get("url") or ""), desired.url) for one in studio.backends(desired.project))
    half = "; the backend is there, its webhook is not: SSRF_PROTECTION_ENABLED is what is missing" if made else ""
    return BackendBlockedError(f"{desired.url}: {said.partition('; set ML_')[0]}{half}. {_SSRF}")


def _refusal(desired: DesiredBackend, said: str) -> str:
    if "authentication" in said.lower():
        return (
            f"{desired.url} refuses BASIC_AUTH_USER and BASIC_AUTH_PASS; set equal values for this command and the API "
            f"({said})"
        )
    return (
        f"Label Studio cannot use {desired.url}: {said}. Is the service up, and is this its address from where Label "
        "Studio runs? In a container 127.0.0.1 is the container: give --url"
    )


def _require_connected(outcome: ReconcileResult, desired: DesiredBackend) -> None:
    document = outcome.document or {}
    if document.get("state") not in (CONNECTED, None):
        said = document.get("error_message") or document.get("readable_state") or document.get("state")
        raise BackendRefusedError(_refusal(desired, str(said)))
