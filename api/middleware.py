"""Around every request: its id, its line in the log, its time, its headers, the limit of its body, and 500 for bugs."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import fault, problem
from api.metrics import RequestMetrics

_QUIET = ("/", "/health", "/healthz", "/readyz", "/metrics")
_LONGEST_ID = 100
_LOCKED = "default-src 'none'; frame-ancestors 'none'; sandbox"
_DOCS = (  # Swagger's page and its files, as FastAPI names them
    "default-src 'self'; script-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net; "
    "style-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net; img-src 'self' data: https://fastapi.tiangolo.com"
)

log = structlog.get_logger("api.access")


@dataclass
class _Answer:
    status: int = 500
    started: bool = False
    at: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.at


class RequestLogging:
    """The outermost: what it does not see, nobody does."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope))
        answer = _Answer()

        async def send_seen(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.started, answer.status = True, int(message["status"])
                _add_headers(MutableHeaders(scope=message), scope["path"], request_id)
            await send(message)

        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request=request_id)
        scope.setdefault("state", {})
        try:
            await self._app(scope, receive, send_seen)
        except Exception:
            log.exception("unexpected error", method=scope["method"], path=scope["path"])
            if answer.started:
                raise
            await fault()(scope, receive, send_seen)
        finally:
            self._note(scope, answer)

    def _note(self, scope: Scope, answer: _Answer) -> None:
        self._metrics.seen(scope["method"], _template(scope), answer.status, answer.seconds)
        if scope["path"] not in _QUIET:
            log.info(
                "request",
                method=scope["method"],
                path=scope["path"],
                status=answer.status,
                ms=round(1000 * answer.seconds, 1),
                key=scope["state"].get("key"),
            )


class BodyLimit:
    """Refuses a body of more than `most` bytes before anything reads it, whatever its length is said to be. Addresses
    of `others` have limits of their own.
    """

    def __init__(self, app: ASGIApp, most: int, others: Mapping[str, int]) -> None:
        self._app = app
        self._most = most
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._others.get(scope["path"], self._most)
        hint = "send fewer tasks at a time" if scope["path"] in self._others else "put long lists into a manifest"
        says = f"the request's body is larger than {most:,} bytes; {hint}"
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > most:
            await problem(413, "body_too_large", says)(scope, receive, send)
            return
        read = 0

        async def receive_some() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > most:
                raise HTTPException(413, says)
            return message

        await self._app(scope, receive_some, send)


def _template(scope: Scope) -> str:
    """The route's address with names in place of values. FastAPI keeps it with the routers' prefixes in a place of its
    own, for its route knows only its own part.
    """
    route = scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")
    return str(getattr(route, "path", "unmatched"))


def _request_id(headers: Headers) -> str:
    """The caller's own, if it is a sane one: then both logs tell of it under one name."""
    given = headers.get("x-request-id", "")
    return given if 0 < len(given) <= _LONGEST_ID and given.isascii() and given.isprintable() else uuid4().hex


def _add_headers(headers: MutableHeaders, path: str, request_id: str) -> None:
    headers["X-Request-Id"] = request_id
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "no-referrer"
    headers["Content-Security-Policy"] = _DOCS if path == "/docs" else _LOCKED
    headers.setdefault("Cache-Control", "no-store")
