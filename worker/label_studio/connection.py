"""HTTP to Label Studio, with every way it can go wrong told apart: above all whether a change may have been made.

label_studio_sdk's client is not used here: it repeats a POST by itself (docs/decisions/0008).
"""

import json
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from types import TracebackType
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

_MOST_BYTES = 256 * 2**20
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
_JSON = {"Content-Type": "application/json", "Accept": "application/json"}
_OK, _REDIRECT, _REFUSED = range(200, 300), range(300, 400), range(400, 500)
_NO_CONTENT, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _TIMEOUT, _TOO_LARGE = 204, 401, 403, 404, 408, 413
_BUSY = (429, 503)
_SAFE = ("GET", "HEAD")
_REFRESH = "/api/token/refresh/"


class Connection:
    """Requests to one Label Studio as one of its users, from any number of threads."""

    def __init__(self, url: str, api_key: str, *, connections: int = 8, read_seconds: float = 30.0) -> None:
        """`url` may have a path, where Label Studio is served below one. Environment variables of proxies do not count:
        the token goes to this host alone.
        """
        self.url = url.rstrip("/")
        self.most_seconds = 10.0 + 2 * read_seconds
        """No request lasts longer, be it that the server sends its answer byte by byte."""
        self.tokens = Tokens(api_key, self._exchange)
        trusted = ssl.create_default_context()  # of the system, SSL_CERT_FILE included
        trusted.load_verify_locations(certifi.where())  # for images without any
        self._http = httpx.Client(
            verify=trusted,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(read_seconds, connect=5.0),
            limits=httpx.Limits(max_connections=connections, keepalive_expiry=5.0),
        )

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def headers(self) -> dict[str, str]:
        """That make a request one of this user's. Raises: LabelStudioError."""
        return {"Authorization": self.tokens.header()}

    def ask(self, method: str, path: str, *, query: Mapping[str, str | int] | None = None, body: object = None) -> Any:  # noqa: ANN401 - JSON
        """The answer's JSON; None where it has no content. `body`: text is JSON already, anything else becomes it.

        Raises:
            LabelStudioError: see worker.label_studio.errors.

        """
        content = body.encode() if isinstance(body, str) else None if body is None else json.dumps(body).encode()
        header = self.tokens.header()
        answer = self._send(method, path, query, content, header)
        if answer.status_code == _UNAUTHORIZED and self.tokens.refused(header):
            # A request that was refused has changed nothing, so that even a POST may be sent again.
            answer = self._send(method, path, query, content, self.tokens.header())
        return self._read(answer, safe=method in _SAFE)

    def _exchange(self, personal: str) -> str:
        content = json.dumps({"refresh": personal}).encode()
        # Nothing that matters is changed by it, so it counts as a question.
        access = self._read(self._send("POST", _REFRESH, None, content, None), safe=True)
        token = access.get("access") if isinstance(access, dict) else None
        if not isinstance(token, str):
            raise NotLabelStudioError(f"{self.url} gives no access token for a personal one; check LABEL_STUDIO_URL")
        return token

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int] | None,
        content: bytes | None,
        authorization: str | None,
    ) -> httpx.Response:
        """An answer with its content read, whatever its status."""
        headers = _JSON | ({"Authorization": authorization} if authorization else {})
        ends = time.monotonic() + self.most_seconds
        try:
            with self._http.stream(method, self.url + path, params=query, content=content, headers=headers) as answer:
                pieces, size = [], 0
                for piece in answer.iter_bytes():
                    pieces.append(piece)
                    size += len(piece)
                    if size > _MOST_BYTES or time.monotonic() > ends:
                        raise httpx.ReadTimeout("the answer does not end")
        except httpx.InvalidURL as error:
            raise NotLabelStudioError(f"LABEL_STUDIO_URL is no address of a server ({error})") from error
        except _NEVER_SENT as error:
            raise LabelStudioUnreachableError(self._silent(error)) from error
        except httpx.HTTPError as error:
            self._broke(self._silent(error), error, safe=method in _SAFE or path == _REFRESH)
        return httpx.Response(answer.status_code, headers=_plain(answer.headers), content=b"".join(pieces))

    def _silent(self, error: Exception) -> str:
        reason = str(error) or type(error).__name__
        return f"Label Studio at {self.url} does not answer ({reason}); check that it runs, and LABEL_STUDIO_URL"

    def _broke(self, told: str, cause: Exception | None = None, *, safe: bool) -> NoReturn:
        if safe:
            raise LabelStudioUnreachableError(told) from cause
        raise OutcomeUncertainError(
            f"{told}; what was sent may have arrived, so it is looked for before it is sent again"
        ) from cause

    def _read(self, answer: httpx.Response, *, safe: bool) -> Any:  # noqa: ANN401
        status = answer.status_code
        if status == _NO_CONTENT:
            return None
        try:
            document = answer.json()
        except ValueError:
            document = None
        if status not in _OK:
            self._trouble(answer, document, safe=safe)
        if document is None and safe:
            raise NotLabelStudioError(
                f"what answers at {self.url} is no Label Studio; check LABEL_STUDIO_URL and its path"
            )
        if document is None:
            self._broke(f"Label Studio at {self.url} gave an answer that cannot be read", safe=safe)
        return document

    def _trouble(self, answer: httpx.Response, document: object, *, safe: bool) -> NoReturn:
        status = answer.status_code
        if status in _BUSY:
            wait = _seconds(answer.headers.get("retry-after", ""))
            raise LabelStudioBusyError(
                f"Label Studio at {self.url} is too busy ({status}); it is asked again later", wait
            )
        if status in _REFUSED and status != _TIMEOUT:
            self._refuse(status, document)
        if status in _REDIRECT:
            to = answer.headers.get("location", "elsewhere").partition("?")[0]
            raise NotLabelStudioError(
                f"{self.url} sends on to {to}; set LABEL_STUDIO_URL to where Label Studio is itself"
            )
        told = f"Label Studio at {self.url} answered {status}, which is its own or its proxy's trouble"
        self._broke(told, safe=safe)

    def _refuse(self, status: int, document: object) -> NoReturn:
        told = document if isinstance(document, dict) else {}
        detail = str(told.get("detail", "")) or f"status {status}"
        if status == _UNAUTHORIZED:
            self._unauthorized(detail)
        if status == _FORBIDDEN:
            if "reserved network" in detail or "SSRF" in detail:
                raise AddressBlockedError(
                    f"Label Studio may not call that address ({detail}); set ML_BLOCK_LOCAL_IP=false and "
                    "SSRF_PROTECTION_ENABLED=false for it"
                )
            raise ForbiddenError(f"Label Studio at {self.url} refuses the token's user ({detail}); give it the right")
        if status == _NOT_FOUND:
            if not told:
                raise NotLabelStudioError(
                    f"what answers at {self.url} knows no such page; check LABEL_STUDIO_URL, also its path "
                    "(/label-studio where it is served below one)"
                )
            raise NotFoundError(f"Label Studio: {detail}")
        if status == _TOO_LARGE:
            raise RejectedError("the prediction is larger than Label Studio, or a proxy before it, takes in", {})
        fields = told.get("validation_errors", {})
        raise RejectedError(f"Label Studio refused it: {_short(fields) if fields else detail}", fields)

    def _unauthorized(self, detail: str) -> NoReturn:
        if "legacy token authentication has been disabled" in detail:
            raise LegacyTokenRefusedError(
                "LABEL_STUDIO_API_KEY is a legacy token, and those are switched off; make a personal access token, or "
                "allow legacy tokens in Organization > API Tokens Settings"
            )
        kind = {TokenKind.LEGACY: "legacy token", TokenKind.PERSONAL: "personal access token"}
        shown = "cut-off personal access token" if self.tokens.cut else kind.get(self.tokens.kind, "token")
        raise TokenRefusedError(
            f"Label Studio at {self.url} refuses the {shown} in LABEL_STUDIO_API_KEY ({detail}); copy it again from "
            "Account & Settings"
        )


def _plain(headers: httpx.Headers) -> dict[str, str]:
    """Without those that speak of a content which is unpacked by now."""
    return {name: value for name, value in headers.items() if name in ("retry-after", "location", "content-type")}


def _seconds(retry_after: str) -> float:
    """A number, or a date; at most an hour."""
    try:
        wanted = float(retry_after)
    except ValueError:
        try:
            wanted = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except ValueError:
            wanted = 0.0
    return min(max(wanted, 0.0), 3600.0) if wanted == wanted else 0.0  # noqa: PLR0124 - "nan" is a float


def _short(fields: object) -> str:
    text = json.dumps(fields, ensure_ascii=False)
    return text if len(text) <= 500 else text[:500] + "…"  # noqa: PLR2004 - a row's detail is read by people
