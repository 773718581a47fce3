"""Who may speak as Label Studio.

Its requests carry Basic credentials where the backend was added with them. Its webhooks cannot: they carry headers that
are set on the webhook, X-Car-Token for us. Both are open only where nothing is configured.
"""

from base64 import b64decode
from secrets import compare_digest
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials
from fastapi.security.http import HTTPBase

from api.errors import CredentialsRefusedError
from api.label_studio.context import BackendContextDep
from api.settings import ApiSettings

TOKEN_HEADER = "X-Car-Token"  # noqa: S105 - its name
_basic = HTTPBase(
    scheme="basic",
    scheme_name="LabelStudioBasic",
    auto_error=False,
    description="BASIC_AUTH_USER and BASIC_AUTH_PASS, as they are given to Label Studio with the backend's address.",
)
_token = APIKeyHeader(
    name=TOKEN_HEADER,
    scheme_name="LabelStudioWebhook",
    auto_error=False,
    description="CAR_WEBHOOK_SECRET, as a header of the webhook in Label Studio.",
)
Given = Annotated[HTTPAuthorizationCredentials | None, Security(_basic)]
GivenToken = Annotated[str | None, Security(_token)]


async def _speaker(face: BackendContextDep, given: Given) -> None:
    if face.settings.basic_auth_user and not _knows_password(face.settings, given):
        raise CredentialsRefusedError(
            "Label Studio must send this service's name and password: give BASIC_AUTH_USER and BASIC_AUTH_PASS with "
            "the backend's address, under Basic authentication"
        )


async def _visitor(face: BackendContextDep, request: Request) -> None:
    """Who asks for health may say nothing. Wrong credentials are refused all the same: of that answer alone Label
    Studio tells its user that they are wrong.
    """
    if "authorization" in request.headers:
        await _speaker(face, await _basic(request))


async def _teller(face: BackendContextDep, given: Given, token: GivenToken) -> None:
    settings = face.settings
    if settings.webhook_secret is None and settings.basic_auth_user is None:
        return
    if not (_knows_secret(settings, token) | _knows_password(settings, given)):
        raise CredentialsRefusedError(
            f"the webhook must send the header {TOKEN_HEADER} with CAR_WEBHOOK_SECRET; "
            "`car label-studio connect` sets it in Label Studio"
        )


def _knows_password(settings: ApiSettings, given: HTTPAuthorizationCredentials | None) -> bool:
    user, password = settings.basic_auth_user, settings.basic_auth_pass
    if user is None or password is None or given is None or given.scheme.lower() != "basic":
        return False
    try:
        sent = b64decode(given.credentials, validate=True)
    except ValueError:
        return False
    known = _encodings(f"{user}:{password.get_secret_value()}")
    return any(compare_digest(sent, one) for one in known)


def _encodings(text: str) -> list[bytes]:
    """As browsers send it, and as Python's requests does, where it can."""
    latin = [text.encode("latin-1")] if all(ord(letter) <= 0xFF for letter in text) else []  # noqa: PLR2004 - its last
    return [text.encode(), *latin]


def _knows_secret(settings: ApiSettings, token: str | None) -> bool:
    # Headers come as Latin-1.
    return (
        settings.webhook_secret is not None
        and token is not None
        and compare_digest(token.encode("latin-1", "replace"), settings.webhook_secret.get_secret_value().encode())
    )


BackendAuth = Annotated[None, Depends(_speaker)]
OptionalAuth = Annotated[None, Depends(_visitor)]
WebhookAuth = Annotated[None, Depends(_teller)]
