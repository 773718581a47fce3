"""The FastAPI application. It does not import torch and answers without any worker."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any

from fastapi import APIRouter, FastAPI
from prometheus_client import CollectorRegistry

from api import errors, label_studio, metrics
from api.concurrency import ThreadLimiter
from api.dependencies import Connections
from api.label_studio import BackendContext
from api.metrics import QueueMetrics, request_histogram
from api.middleware import BodyLimit, RequestLogging
from api.routes import health, jobs, keys, projects, results, vocabularies
from api.routes.health import make_probes
from api.schemas.common import Problem
from api.settings import ApiSettings

_ABOUT = """
Open-vocabulary pre-labeling: masks for any words by CLIP as RNN, with the query history
that shows why each word was kept or dropped.

Send an API key as `Authorization: Bearer car_…` (`car keys create`); Label Studio sends a user name and a password
(`BASIC_AUTH_USER`, `BASIC_AUTH_PASS`). Lists are `{"items": […], "next": cursor}`;
errors are `application/problem+json` with a stable `code`.
"""


class Api(FastAPI):
    """FastAPI whose OpenAPI document gives errors as application/problem+json."""

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        for operations in document["paths"].values():
            for operation in operations.values():
                content = operation["responses"].get("default", {}).get("content", {})
                if "application/json" in content:
                    content[errors.PROBLEM] = content.pop("application/json")
        return document


def create_app(settings: ApiSettings | None = None) -> FastAPI:
    """Return the application. It connects to the database, Redis and S3 on first use.

    Raises:
        SettingsInvalidError: a setting is missing or invalid.

    """
    connections = Connections.from_settings(settings or ApiSettings.from_environment())
    registry = CollectorRegistry()
    app = Api(
        title="CaR Labeler",
        description=_ABOUT,
        version=metadata.version("car-labeler"),
        redoc_url=None,
        lifespan=_lifespan,
        exception_handlers=errors.HANDLERS,
        responses={"default": {"model": Problem, "content": {errors.PROBLEM: {}}, "description": "an error"}},
    )
    app.state.connections = connections
    app.state.backend = BackendContext.from_connections(connections, registry)
    app.state.probes = make_probes(connections)
    app.state.metrics_registry = registry
    app.state.metrics_limit = ThreadLimiter("metrics", 1)
    registry.register(QueueMetrics(connections.probes))
    # The last one added is the outermost.
    overrides = dict.fromkeys(label_studio.BODY_PATHS, connections.settings.predict_max_body)
    app.add_middleware(BodyLimit, max_bytes=connections.settings.max_body, overrides=overrides)
    app.add_middleware(RequestLogging, histogram=request_histogram(registry))
    versioned = APIRouter(prefix="/api/v1")
    for module in (jobs, results, projects, vocabularies, keys):
        versioned.include_router(module.router)
    versioned.include_router(vocabularies.recipes_router)
    app.include_router(versioned)
    app.include_router(label_studio.router)
    app.include_router(health.router)
    app.include_router(metrics.router)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    for probe in app.state.probes.values():
        probe.close()
    app.state.metrics_limit.close()
    app.state.backend.close()
    app.state.connections.close()
