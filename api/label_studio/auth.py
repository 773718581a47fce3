"""Authentication of Label Studio.

Its requests carry Basic credentials if the backend was added with them. Its webhooks cannot; they carry a header of
their own, for us X-Car-Token. Both are open only if nothing is configured.
"""

from base64 import b64decode
from contextlib import suppress
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
    description="BASIC_AUTH_USER and BASIC_AUTH_PASS, as entered in Label Studio with the backend's URL.",
)
_token = APIKeyHeader(
    name=TOKEN_HEADER,
    scheme_name="LabelStudioWebhook",
    auto_error=False,
    description="CAR_WEBHOOK_SECRET, as a header of the webhook in Label Studio.",
)
Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(_basic)]


async def _require_password(backend: BackendContextDep, credentials: Credentials) -> None:
    if backend.settings.basic_auth_user and not _has_password(backend.settings, credentials):
        raise CredentialsRefusedError(
            "Label Studio must send this service's user name and password: choose Basic authentication for the backend "
            "and enter BASIC_AUTH_USER and BASIC_AUTH_PASS"
        )


async def _check_sent_password(backend: BackendContextDep, request: Request) -> None:
    """Allow no credentials, but refuse wrong ones: only on /health does Label Studio tell its user that they are."""
    if "authorization" in request.headers:
        await _require_password(backend, await _basic(request))


async def _require_secret(
    backend: BackendContextDep, credentials: Credentials, token: Annotated[str | None, Security(_token)]
) -> None:
    settings = backend.settings
    if settings.webhook_secret is None and settings.basic_auth_user is None:
        return
    if not (_has_secret(settings, token) | _has_password(settings, credentials)):
        raise CredentialsRefusedError(
            f"the webhook must send the header {TOKEN_HEADER} with CAR_WEBHOOK_SECRET; "
            "`car label-studio connect` sets it in Label Studio"
        )


def _has_password(settings: ApiSettings, credentials: HTTPAuthorizationCredentials | None) -> bool:
    user, password = settings.basic_auth_user, settings.basic_auth_pass
    if user is None or password is None or credentials is None or credentials.scheme.lower() != "basic":
        return False
    try:
        sent = b64decode(credentials.credentials, validate=True)
    except ValueError:
        return False
    text = f"{user}:{password.get_secret_value()}"
    expected = [text.encode()]  # as browsers send it
    with suppress(UnicodeEncodeError):
        expected.append(text.encode("latin-1"))  # as Python's requests does
    return any(compare_digest(sent, encoded) for encoded in expected)


def _has_secret(settings: ApiSettings, token: str | None) -> bool:
    # Headers arrive decoded as Latin-1.
    return (
        settings.webhook_secret is not None
        and token is not None
        and compare_digest(token.encode("latin-1", "replace"), settings.webhook_secret.get_secret_value().encode())
    )


BackendAuth = Annotated[None, Depends(_require_password)]
OptionalAuth = Annotated[None, Depends(_check_sent_password)]
WebhookAuth = Annotated[None, Depends(_require_secret)]
