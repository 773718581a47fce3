"""What a connected project looks like in Label Studio, and what has to change for it. No request is made here."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
class Wish:
    """How the project shall be connected."""

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
    """What to send, and in which of it the present differs; nothing differs where `fields` is empty."""

    body: dict[str, Any]
    fields: tuple[str, ...]


def own_backend(backends: Sequence[Document], wish: Wish) -> Document | None:
    """The backend that is this service: by its address, else by its title."""
    for one in backends:
        if same_address(str(one.get("url") or ""), wish.url):
            return one
    title = wish.title or _TITLE
    return next((one for one in backends if one.get("title") == title), None)


def backend_difference(found: Document | None, wish: Wish) -> Difference:
    """Label Studio checks a change like a new one, so `body` is always whole."""
    found = found or {}
    params = extra_params_of(found)
    body: dict[str, Any] = {
        "project": wish.project,
        "url": wish.url,
        "title": wish.title or found.get("title") or _TITLE,
        "is_interactive": True,
        "extra_params": {**params, **wish.extra_params},
        "auth_method": "BASIC_AUTH" if wish.user else "NONE",
    }
    present = {**found, "extra_params": params}
    fields = [name for name, value in body.items() if name not in ("project", "url") and present.get(name) != value]
    if not same_address(str(found.get("url") or ""), wish.url):
        fields.append("url")
    if wish.user:
        body |= {"basic_auth_user": wish.user, "basic_auth_pass": wish.password}
        if found.get("basic_auth_user") != wish.user:
            fields.append("basic_auth_user")
        # The password cannot be read; a backend that answers was given the right one.
        if not found.get("basic_auth_pass_is_set") or found.get("state") != CONNECTED:
            fields.append("basic_auth_pass")
    return Difference(body, tuple(fields))


def extra_params_of(backend: Document) -> dict[str, Any]:
    """An object, be it as Label Studio's form writes it, as text. What is neither counts as none."""
    given = backend.get("extra_params")
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            return {}
    return dict(given) if isinstance(given, Mapping) else {}


def own_webhook(webhooks: Sequence[Document], wish: Wish) -> Document | None:
    return next((one for one in webhooks if same_address(str(one.get("url") or ""), wish.webhook_url)), None)


def webhook_difference(found: Document | None, wish: Wish) -> Difference:
    """`body` always says the actions: a change without them would take them all away."""
    found = found or {}
    headers = dict(found.get("headers") or {})
    if wish.secret:
        headers = {name: value for name, value in headers.items() if name.lower() != SECRET_HEADER.lower()}
        headers[SECRET_HEADER] = wish.secret
    body: dict[str, Any] = {
        "project": wish.project,
        "url": found.get("url") or wish.webhook_url,
        "is_active": True,
        "send_payload": True,
        "send_for_all_actions": False,
        "actions": list(ACTIONS),
        "headers": headers,
    }
    present = {**found, "actions": sorted(found.get("actions") or ()), "headers": found.get("headers") or {}}
    return Difference(body, tuple(name for name, value in body.items() if present.get(name) != value))


def same_address(one: str, other: str) -> bool:
    return one.rstrip("/").lower() == other.rstrip("/").lower()
