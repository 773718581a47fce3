"""Middleware: request ids, the access log, metrics, response headers, the body limit, and 500 for bugs."""

import time
from collections.abc import Mapping
from uuid import uuid4

import structlog
from prometheus_client import Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import fault, problem

_UNLOGGED = ("/", "/health", "/healthz", "/readyz", "/metrics")
_METHODS = ("GET", "POST", "DELETE", "HEAD", "PUT", "PATCH", "OPTIONS")
_LONGEST_ID = 100
_NO_CONTENT = "default-src 'none'; frame-ancestors 'none'; sandbox"
_DOCS = (  # Swagger's page and its files, as FastAPI names them
    "default-src 'self'; script-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net; "
    "style-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net; img-src 'self' data: https://fastapi.tiangolo.com"
)

log = structlog.get_logger("api.access")


class RequestLogging:
    """Outermost middleware: logs and counts every request, and turns exceptions into 500."""

    def __init__(self, app: ASGIApp, histogram: Histogram) -> None:
        self._app = app
        self._histogram = histogram

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, request_id = time.perf_counter(), _request_id(Headers(scope=scope))
        status: int | None = None

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
                _add_headers(MutableHeaders(scope=message), scope["path"], request_id)
            await send(message)

        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        scope.setdefault("state", {})
        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            log.exception("unexpected error", method=scope["method"], path=scope["path"])
            if status is not None:
                raise
            await fault()(scope, receive, send_with_headers)
        finally:
            self._record(scope, status or 500, time.perf_counter() - begun)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._histogram.labels(method, _template(scope), str(status)).observe(seconds)
        if scope["path"] not in _UNLOGGED:
            log.info(
                "request",
                method=scope["method"],
                path=scope["path"],
                status=status,
                ms=round(1000 * seconds, 1),
                key=scope["state"].get("key"),
            )


class BodyLimit:
    """Refuses a body of more than `max_bytes` while it is read, whatever Content-Length says. Paths in `overrides` have
    limits of their own.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, overrides: Mapping[str, int]) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._overrides = overrides

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        max_bytes = self._overrides.get(scope["path"], self._max_bytes)
        hint = "send fewer tasks at a time" if scope["path"] in self._overrides else "put long lists into a manifest"
        detail = f"the request's body is larger than {max_bytes:,} bytes; {hint}"
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > max_bytes:
            await problem(413, "body_too_large", detail)(scope, receive, send)
            return
        size = 0

        async def receive_limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > max_bytes:
                raise HTTPException(413, detail)
            return message

        await self._app(scope, receive_limited, send)


def _template(scope: Scope) -> str:
    """Return the route's path with parameter names in place of values. A route of an included router lacks its prefix;
    FastAPI keeps the whole path elsewhere.
    """
    route = scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")
    return str(getattr(route, "path", "unmatched"))


def _request_id(headers: Headers) -> str:
    """Return the client's id if it is printable ASCII, so that both logs share it; otherwise a new one."""
    sent = headers.get("x-request-id", "")
    return sent if 0 < len(sent) <= _LONGEST_ID and sent.isascii() and sent.isprintable() else uuid4().hex


def _add_headers(headers: MutableHeaders, path: str, request_id: str) -> None:
    headers["X-Request-Id"] = request_id
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "no-referrer"
    headers["Content-Security-Policy"] = _DOCS if path == "/docs" else _NO_CONTENT
    headers.setdefault("Cache-Control", "no-store")
