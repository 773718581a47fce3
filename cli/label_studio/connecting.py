"""A project's ML backend and webhook in Label Studio, made or changed so that they are as wished."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from cli.label_studio.errors import BackendBlocked, BackendRefused
from cli.label_studio.wanted import (
    CONNECTED,
    Difference,
    Document,
    Wish,
    backend_difference,
    own_backend,
    own_webhook,
    same_address,
    webhook_difference,
)

if TYPE_CHECKING:
    from worker.label_studio import LabelStudio

_SSRF = (
    "Label Studio does not call private addresses by itself. Start it with both of\n"
    "  ML_BLOCK_LOCAL_IP=false          for the ML backend\n"
    "  SSRF_PROTECTION_ENABLED=false    for its webhook\n"
    "in its environment, or give this service a public address (--url)"
)


class How(StrEnum):
    MADE = "made"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    ABSENT = "absent"
    """Not wanted."""


@dataclass(frozen=True)
class Outcome:
    """What became of a backend or a webhook."""

    how: How
    fields: tuple[str, ...] = ()
    """That were changed."""
    document: Document | None = None
    """As Label Studio shows it afterwards."""

    def to_json(self) -> dict[str, Any]:
        number = self.document.get("id") if self.document else None
        return {"id": number, "how": str(self.how), "fields": list(self.fields)}


def connect_backend(studio: "LabelStudio", wish: Wish) -> Outcome:
    """Raises: BackendBlocked, BackendRefused, LabelStudioError."""
    from worker.label_studio.errors import AddressBlocked, Rejected

    found = own_backend(studio.backends(wish.project), wish)
    wanted = backend_difference(found, wish)
    if found is not None and not wanted.fields and found.get("state") == CONNECTED:
        return Outcome(How.UNCHANGED, document=found)
    try:
        if found is None:
            outcome = Outcome(How.MADE, document=studio.add_backend(wanted.body))
        else:
            changed = studio.change_backend(int(found["id"]), wanted.body)
            outcome = Outcome(How.CHANGED, wanted.fields, changed)
    except AddressBlocked as error:
        raise _blocked(studio, wish, str(error)) from error
    except Rejected as error:
        raise BackendRefused(_refusal(wish, str(error))) from error
    _require_connected(outcome, wish)
    return outcome


def connect_webhook(studio: "LabelStudio", wish: Wish) -> Outcome:
    """That of the backend's address; Label Studio makes one, for all actions and without a secret, beside a backend.

    Raises: BackendBlocked, LabelStudioError.
    """
    from worker.label_studio.errors import AddressBlocked, Rejected

    found = own_webhook(studio.webhooks(wish.project), wish)
    wanted: Difference = webhook_difference(found, wish)
    if found is not None and not wanted.fields:
        return Outcome(How.UNCHANGED, document=found)
    try:
        if found is None:
            return Outcome(How.MADE, document=studio.add_webhook(wanted.body))
        return Outcome(How.CHANGED, wanted.fields, studio.change_webhook(int(found["id"]), wanted.body))
    except AddressBlocked as error:
        said = str(error).partition("; set ML_")[0]
        raise BackendBlocked(f"the webhook {wish.webhook_url}: {said}. {_SSRF}") from error
    except Rejected as error:
        raise BackendRefused(f"Label Studio refuses the webhook {wish.webhook_url}: {error}") from error


def others(studio: "LabelStudio", wish: Wish, own: Outcome) -> list[Document]:
    """Backends of the project that Label Studio asks before ours: it asks the first alone."""
    before: list[Document] = []
    for one in studio.backends(wish.project):
        if own.document is not None and one.get("id") == own.document.get("id"):
            return before
        before.append(one)
    return before


def _blocked(studio: "LabelStudio", wish: Wish, said: str) -> BackendBlocked:
    """With the first variable alone the backend is made, and the answer is a refusal all the same."""
    made = any(same_address(str(one.get("url") or ""), wish.url) for one in studio.backends(wish.project))
    half = "; the backend is there, its webhook is not: SSRF_PROTECTION_ENABLED is what is missing" if made else ""
    return BackendBlocked(f"{wish.url}: {said.partition('; set ML_')[0]}{half}. {_SSRF}")


def _refusal(wish: Wish, said: str) -> str:
    if "authentication" in said.lower():
        return (
            f"{wish.url} does not take BASIC_AUTH_USER and BASIC_AUTH_PASS as they are here; give this command and the "
            f"API the same two ({said})"
        )
    return (
        f"Label Studio cannot use {wish.url}: {said}. Is the service up, and is this its address from where Label "
        "Studio runs? In a container 127.0.0.1 is the container: give --url"
    )


def _require_connected(outcome: Outcome, wish: Wish) -> None:
    document = outcome.document or {}
    if document.get("state") not in (CONNECTED, None):
        said = document.get("error_message") or document.get("readable_state") or document.get("state")
        raise BackendRefused(_refusal(wish, str(said)))
