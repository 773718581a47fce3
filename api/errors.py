"""Errors as responses: application/problem+json (RFC 9457). The root is car.errors.CarError.

CarError
├── KeyMissingError          no bearer key
├── ScopeMissingError        a valid key without the scope
├── CredentialsRefusedError  Label Studio without the right user name and password, or a webhook without our secret
├── RequestInvalidError      a body of Label Studio that cannot be read, or a project whose instance is not known
├── SourceEmptyError         a source without images
├── ObjectsUnavailableError  the service's own bucket is missing or denied: nothing the client can change
├── NotFoundError
│   └── ObjectsLostError     the objects of a result were deleted
├── StoreTimeoutError        S3 is too slow for a request to wait for it
└── OverloadedError          more requests at once than the service can answer
"""

from collections.abc import Callable, Coroutine, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from car.errors import CarError, SourceError
from db.errors import NotFoundError

PROBLEM = "application/problem+json"
_RETRY_SECONDS = "5"
_CLIENT_CLOSED_REQUEST = 499
"""As nginx logs it."""


class KeyMissingError(CarError):
    code = "key_missing"


class ScopeMissingError(CarError):
    code = "scope_missing"


class CredentialsRefusedError(CarError):
    code = "credentials_refused"


class RequestInvalidError(CarError):
    code = "request_invalid"


class SourceEmptyError(SourceError):
    code = "source_empty"


class ObjectsUnavailableError(CarError):
    code = "objects_unavailable"
    retryable = True


class ObjectsLostError(NotFoundError):
    """Objects of a result were deleted, but its row still exists; `not_found` to clients."""


class StoreTimeoutError(CarError):
    code = "store_timeout"
    retryable = True


class OverloadedError(CarError):
    code = "overloaded"
    retryable = True


_CODES = {
    HTTPStatus.UNAUTHORIZED: "key_missing key_refused credentials_refused",
    HTTPStatus.FORBIDDEN: "scope_missing",
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.CONFLICT: "conflict",
    # The errors of S3 concern a job's source, which the client named; those of our own bucket become
    # ObjectsUnavailableError.
    HTTPStatus.UNPROCESSABLE_ENTITY: "request_invalid cursor_invalid recipe_invalid vocabulary_invalid "
    "labeling_config_invalid source_invalid source_empty "
    "bucket_missing access_denied object_missing object_store_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "database_unreachable database_busy schema_outdated store_unreachable "
    "objects_unavailable overloaded service_access credentials_expired clock_skewed",
    HTTPStatus.GATEWAY_TIMEOUT: "store_timeout",
}
STATUS = {code: status for status, codes in _CODES.items() for code in codes.split()}
"""Every code that a client may see. Any other is a bug: 500, logged, without its message."""

_CHALLENGE = {"credentials_refused": 'Basic realm="CaR Labeler"'}
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}

log = structlog.get_logger("api")


def problem(
    status: int, code: str, detail: str, *, errors: Sequence[dict[str, str]] = (), headers: dict[str, str] | None = None
) -> JSONResponse:
    """Return the response for an error: every one that is not a success has this body."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
    }
    if errors:
        body["errors"] = list(errors)
    extra = dict(headers or {})
    if status == HTTPStatus.UNAUTHORIZED:
        extra["WWW-Authenticate"] = _CHALLENGE.get(code, "Bearer")
    if status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT):
        extra["Retry-After"] = _RETRY_SECONDS
    return JSONResponse(body, status, extra, media_type=PROBLEM)


def fault() -> JSONResponse:
    """Return the response for a bug: the log has the details, the client gets none."""
    return problem(500, "internal_error", "internal error; the log has the details under this X-Request-Id")


# Coroutines: plain functions would queue for a thread behind the very requests that are too many.


async def _disconnected(_: Request, __: ClientDisconnect) -> Response:
    return Response(status_code=_CLIENT_CLOSED_REQUEST)  # for the log: the client has gone


async def _car_error(_: Request, error: CarError) -> JSONResponse:
    if error.code not in STATUS:
        log.error("unexpected error", code=error.code, exc_info=error)
        return fault()
    return problem(STATUS[error.code], error.code, str(error))


async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
    """Name each field and what is wrong with it, but never its value, which may be a secret."""
    errors = [{"field": ".".join(map(str, entry["loc"])), "problem": str(entry["msg"])} for entry in error.errors()]
    detail = "; ".join(f"{entry['field']}: {entry['problem']}" for entry in errors[:5])
    return problem(422, "request_invalid", detail, errors=errors)


async def _http(_: Request, error: HTTPException) -> JSONResponse:
    code = _HTTP_CODES.get(error.status_code, "request_invalid")
    return problem(error.status_code, code, str(error.detail), headers=dict(error.headers or {}))


HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    ClientDisconnect: _disconnected,
    CarError: _car_error,
    RequestValidationError: _invalid,
    HTTPException: _http,
}
"""Turn every error of a route into a problem."""
