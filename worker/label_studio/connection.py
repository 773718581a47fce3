"""HTTP requests to Label Studio, with typed errors that say whether a change may have been made.

label_studio_sdk's client retries POST requests, so it is not used here (docs/decisions/0008).
"""

import json
import math
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn, Self

import certifi
import httpx

from worker.label_studio.errors import (
    AddressBlockedError,
    ForbiddenError,
    LabelStudioBusyError,
    LabelStudioUnreachableError,
    LegacyTokenRefusedError,
    NotFoundError,
    NotLabelStudioError,
    OutcomeUncertainError,
    RejectedError,
    TokenRefusedError,
)
from worker.label_studio.tokens import TokenKind, Tokens

_MAX_BYTES = 256 * 2**20
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
_JSON = {"Content-Type": "application/json", "Accept": "application/json"}
_OK, _REDIRECT, _CLIENT_ERROR = range(200, 300), range(300, 400), range(400, 500)
_NO_CONTENT, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _TIMEOUT, _TOO_LARGE = 204, 401, 403, 404, 408, 413
_BUSY = (429, 503)
_MAX_DETAIL = 500
"""Characters of validation errors in a message."""
_SAFE = ("GET", "HEAD")
_REFRESH = "/api/token/refresh/"


class Connection:
    """Thread-safe requests to one Label Studio as one user."""

    def __init__(self, url: str, api_key: str, *, connections: int = 8, read_seconds: float = 30.0) -> None:
        """`url` may have a path, if Label Studio is served below one. Proxy variables of the environment are ignored:
        the token is sent to this host only.
        """
        self.url = url.rstrip("/")
        self.most_seconds = 10.0 + 2 * read_seconds
        """Longest time of one request, even if the server sends its answer byte by byte."""
        self.tokens = Tokens(api_key, self._exchange)
        certificates = ssl.create_default_context()  # of the system, SSL_CERT_FILE included
        certificates.load_verify_locations(certifi.where())  # for container images without any
        self._http = httpx.Client(
            verify=certificates,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(read_seconds, connect=5.0),
            limits=httpx.Limits(max_connections=connections, keepalive_expiry=5.0),
        )

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def headers(self) -> dict[str, str]:
        """Return the headers that authenticate a request. Raises: LabelStudioError."""
        return {"Authorization": self.tokens.header()}

    def ask(self, method: str, path: str, *, query: Mapping[str, str | int] | None = None, body: object = None) -> Any:  # noqa: ANN401 - JSON
        """Send a request and return the answer's JSON, None if it has no content. A `body` of type str is JSON already.

        Raises: LabelStudioError.
        """
        content = body.encode() if isinstance(body, str) else None if body is None else json.dumps(body).encode()
        header = self.tokens.header()
        answer = self._send(method, path, query, content, header)
        if answer.status_code == _UNAUTHORIZED and self.tokens.refused(header):
            # A request with a refused token has changed nothing, so even a POST may be sent again.
            answer = self._send(method, path, query, content, self.tokens.header())
        return self._read(answer, safe=method in _SAFE)

    def _exchange(self, personal: str) -> str:
        content = json.dumps({"refresh": personal}).encode()
        access = self._read(self._send("POST", _REFRESH, None, content, None), safe=True)
        token = access.get("access") if isinstance(access, dict) else None
        return token if isinstance(token, str) else self._refuse_answer()

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int] | None,
        content: bytes | None,
        authorization: str | None,
    ) -> httpx.Response:
        """Return an answer of any status, with its content read."""
        headers = _JSON | ({"Authorization": authorization} if authorization else {})
        deadline = time.monotonic() + self.most_seconds
        try:
            with self._http.stream(method, self.url + path, params=query, content=content, headers=headers) as answer:
                received = bytearray()
                for chunk in answer.iter_bytes():
                    received += chunk
                    if len(received) > _MAX_BYTES or time.monotonic() > deadline:
                        raise httpx.ReadTimeout("the answer does not end")
        except httpx.InvalidURL as error:
            raise NotLabelStudioError(f"LABEL_STUDIO_URL is not a valid URL ({error})") from error
        except httpx.HTTPError as error:
            message = (
                f"Label Studio at {self.url} does not answer ({str(error) or type(error).__name__}); "
                "check that it runs, and LABEL_STUDIO_URL"
            )
            self._fail(message, error, safe=isinstance(error, _NEVER_SENT) or method in _SAFE or path == _REFRESH)
        # The content is unpacked by now, so headers that describe its encoding are dropped.
        kept = {name: value for name, value in answer.headers.items() if name in ("retry-after", "location")}
        return httpx.Response(answer.status_code, headers=kept, content=bytes(received))

    def _fail(self, message: str, cause: Exception | None = None, *, safe: bool) -> NoReturn:
        """`safe`: the request cannot have changed anything."""
        if safe:
            raise LabelStudioUnreachableError(message) from cause
        raise OutcomeUncertainError(
            f"{message}; the change may have been made, so this is checked before it is sent again"
        ) from cause

    def _read(self, answer: httpx.Response, *, safe: bool) -> Any:  # noqa: ANN401
        if answer.status_code == _NO_CONTENT:
            return None
        try:
            document = answer.json()
        except ValueError:
            document = None
        if answer.status_code not in _OK:
            self._raise_for_status(answer, document, safe=safe)
        if document is None and safe:
            self._refuse_answer()
        if document is None:
            self._fail(f"Label Studio at {self.url} sent an unreadable answer", safe=safe)
        return document

    def _refuse_answer(self) -> NoReturn:
        raise NotLabelStudioError(
            f"the server at {self.url} is not Label Studio; check LABEL_STUDIO_URL, including its path"
        )

    def _raise_for_status(self, answer: httpx.Response, document: object, *, safe: bool) -> NoReturn:
        status = answer.status_code
        if status in _BUSY:
            wait = _parse_retry_after(answer.headers.get("retry-after", ""))
            raise LabelStudioBusyError(f"Label Studio at {self.url} is overloaded ({status}); retrying later", wait)
        if status in _CLIENT_ERROR and status != _TIMEOUT:
            self._raise_refusal(status, document)
        if status in _REDIRECT:
            location = answer.headers.get("location", "another address").partition("?")[0]
            raise NotLabelStudioError(
                f"{self.url} redirects to {location}; set LABEL_STUDIO_URL to Label Studio's own address"
            )
        self._fail(f"Label Studio at {self.url}, or a proxy before it, failed with status {status}", safe=safe)

    def _raise_refusal(self, status: int, document: object) -> NoReturn:
        body = document if isinstance(document, dict) else {}
        detail = str(body.get("detail", "")) or f"status {status}"
        if status == _UNAUTHORIZED:
            self._raise_unauthorized(detail)
        if status == _FORBIDDEN:
            if "reserved network" in detail or "SSRF" in detail:
                raise AddressBlockedError(
                    f"Label Studio may not call that address ({detail}); set ML_BLOCK_LOCAL_IP=false and "
                    "SSRF_PROTECTION_ENABLED=false in its environment"
                )
            raise ForbiddenError(
                f"Label Studio at {self.url} denies the token's user access ({detail}); grant the permission"
            )
        if status == _NOT_FOUND:
            if not body:
                self._refuse_answer()
            raise NotFoundError(f"Label Studio: {detail}")
        if status == _TOO_LARGE:
            raise RejectedError("the prediction is larger than Label Studio, or a proxy before it, accepts", {})
        fields = body.get("validation_errors", {})
        if fields:
            detail = json.dumps(fields, ensure_ascii=False)
            detail = detail if len(detail) <= _MAX_DETAIL else detail[:_MAX_DETAIL] + "…"
        raise RejectedError(f"Label Studio rejected the request: {detail}", fields)

    def _raise_unauthorized(self, detail: str) -> NoReturn:
        if "legacy token authentication has been disabled" in detail:
            raise LegacyTokenRefusedError(
                "LABEL_STUDIO_API_KEY is a legacy token, and the organization has disabled those; create a personal "
                "access token, or allow legacy tokens in Organization > API Tokens Settings"
            )
        kinds = {TokenKind.LEGACY: "legacy token", TokenKind.PERSONAL: "personal access token"}
        kind = "truncated personal access token" if self.tokens.is_truncated else kinds.get(self.tokens.kind, "token")
        raise TokenRefusedError(
            f"Label Studio at {self.url} rejects the {kind} in LABEL_STUDIO_API_KEY ({detail}); copy it again from "
            "Account & Settings"
        )


def _parse_retry_after(retry_after: str) -> float:
    """Return the seconds of a Retry-After header, which holds a number or a date: at most an hour, 0 if unreadable."""
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except ValueError:
            return 0.0
    return 0.0 if math.isnan(seconds) else min(max(seconds, 0.0), 3600.0)
