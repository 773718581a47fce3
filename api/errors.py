"""Errors as answers: application/problem+json (RFC 9457). The root is car.errors.CarError.

CarError
├── KeyMissing            no bearer key
├── ScopeMissing          a good key that may not do this
├── CredentialsRefused    Label Studio without the right name and password, or its webhook without our secret
├── BodyInvalid           a body of Label Studio that is none
├── TextInvalid           a path or header that no row can hold
├── InstanceUnknown       a project of which nobody says where its Label Studio is
├── SourceEmpty           a source in which no picture was found
├── ObjectsUnavailable    the service's own bucket is missing or denied; nothing the client can change
├── StoreTimeoutError     S3 answers too slowly for a request to wait for it
└── OverloadedError       more requests at once than the service can answer
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from car.errors import CarError, SourceError

PROBLEM = "application/problem+json"
_RETRY_SECONDS = "5"
_CLIENT_CLOSED_REQUEST = 499
"""As nginx has it in its log."""


class KeyMissingError(CarError):
    code = "key_missing"


class ScopeMissingError(CarError):
    code = "scope_missing"


class CredentialsRefusedError(CarError):
    code = "credentials_refused"


class BodyInvalidError(CarError):
    code = "request_invalid"


class TextInvalidError(CarError):
    code = "request_invalid"


class InstanceUnknownError(CarError):
    code = "request_invalid"


class SourceEmptyError(SourceError):
    code = "source_empty"


class ObjectsUnavailableError(CarError):
    code = "objects_unavailable"
    retryable = True


class StoreTimeoutError(CarError):
    """S3 took longer than a request may wait."""

    code = "store_timeout"
    retryable = True


class OverloadedError(CarError):
    """More requests came at once than can be answered."""

    code = "overloaded"
    retryable = True


STATUS: dict[str, HTTPStatus] = {
    "key_missing": HTTPStatus.UNAUTHORIZED,
    "key_refused": HTTPStatus.UNAUTHORIZED,
    "scope_missing": HTTPStatus.FORBIDDEN,
    "credentials_refused": HTTPStatus.UNAUTHORIZED,
    "not_found": HTTPStatus.NOT_FOUND,
    "conflict": HTTPStatus.CONFLICT,
    "request_invalid": HTTPStatus.UNPROCESSABLE_ENTITY,
    "cursor_invalid": HTTPStatus.UNPROCESSABLE_ENTITY,
    "recipe_invalid": HTTPStatus.UNPROCESSABLE_ENTITY,
    "vocabulary_invalid": HTTPStatus.UNPROCESSABLE_ENTITY,
    "labeling_config_invalid": HTTPStatus.UNPROCESSABLE_ENTITY,
    "source_invalid": HTTPStatus.UNPROCESSABLE_ENTITY,
    "source_empty": HTTPStatus.UNPROCESSABLE_ENTITY,
    # Of a job's source, which the client named; those of our own bucket become ObjectsUnavailable.
    "bucket_missing": HTTPStatus.UNPROCESSABLE_ENTITY,
    "access_denied": HTTPStatus.UNPROCESSABLE_ENTITY,
    "object_missing": HTTPStatus.UNPROCESSABLE_ENTITY,
    "object_store_error": HTTPStatus.UNPROCESSABLE_ENTITY,
    "uri_invalid": HTTPStatus.UNPROCESSABLE_ENTITY,
    "database_unreachable": HTTPStatus.SERVICE_UNAVAILABLE,
    "database_busy": HTTPStatus.SERVICE_UNAVAILABLE,
    "schema_outdated": HTTPStatus.SERVICE_UNAVAILABLE,
    "store_unreachable": HTTPStatus.SERVICE_UNAVAILABLE,
    "objects_unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "store_timeout": HTTPStatus.GATEWAY_TIMEOUT,
    "overloaded": HTTPStatus.SERVICE_UNAVAILABLE,
}
"""Every code a client may see. Another one is a fault of ours: 500, logged, without its message."""

_CHALLENGE = {"credentials_refused": 'Basic realm="CaR Labeler"'}
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}

log = structlog.get_logger("api")


def problem(
    status: int, code: str, detail: str, *, errors: Sequence[dict[str, str]] = (), headers: dict[str, str] | None = None
) -> JSONResponse:
    """The body of every answer that is not a success."""
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
    """A bug: the log has it, the client gets no details."""
    return problem(500, "internal_error", "something went wrong here; the log names it under this request's id")


def install(app: FastAPI) -> None:
    """Let every error of a route become a problem. The handlers are coroutines, for functions would queue for a thread
    behind the very requests that are too many.
    """
    app.add_exception_handler(ClientDisconnect, _disconnected)
    app.add_exception_handler(CarError, _car_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


async def _disconnected(_: Request, __: Exception) -> Response:
    """For the log alone: nobody hears it."""
    return Response(status_code=_CLIENT_CLOSED_REQUEST)


async def _car_error(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, CarError) or error.code not in STATUS:
        log.error("unexpected error", code=getattr(error, "code", ""), exc_info=error)
        return fault()
    return problem(STATUS[error.code], error.code, str(error))


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    """Fields by name, and what is wrong with each; never the values, which may be secrets."""
    if not isinstance(error, RequestValidationError):
        return fault()
    errors = [{"field": ".".join(map(str, one["loc"])), "problem": str(one["msg"])} for one in error.errors()]
    detail = "; ".join(f"{one['field']}: {one['problem']}" for one in errors[:5])
    return problem(422, "request_invalid", detail, errors=errors)


async def _http(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        return fault()
    code = _CODES.get(error.status_code, "request_invalid")
    return problem(error.status_code, code, str(error.detail), headers=dict(error.headers or {}))
