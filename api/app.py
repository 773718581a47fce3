"""The web process, put together. It needs no torch, and answers with every worker dead."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any

from fastapi import APIRouter, FastAPI
from prometheus_client import CollectorRegistry

from api import errors, label_studio, metrics
from api.dependencies import Connections
from api.label_studio import BackendContext
from api.metrics import MetricsPage, QueueMetrics, RequestMetrics
from api.middleware import BodyLimit, RequestLogging
from api.routes import health, jobs, keys, projects, recipes, results, vocabularies
from api.routes.health import Probes
from api.schemas import Problem
from api.settings import ApiSettings

_ABOUT = """
Open-vocabulary pre-labeling: masks for any words, by CLIP as RNN, and how each word lived or fell.

Send an API key as `Authorization: Bearer car_…` (`car keys create`); Label Studio sends a name and a password
(`BASIC_AUTH_USER`, `BASIC_AUTH_PASS`). Lists are `{"items": […], "next": cursor}`;
errors are `application/problem+json` with a stable `code`.
"""


class Api(FastAPI):
    """FastAPI, which writes every answer's model down as application/json; ours of errors are problems."""

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        for operations in document["paths"].values():
            for operation in operations.values():
                content = operation["responses"].get("default", {}).get("content", {})
                if "application/json" in content:
                    content[errors.PROBLEM] = content.pop("application/json")
        return document


def create_app(settings: ApiSettings | None = None) -> FastAPI:
    """An app whose engines are connected to when they are first used.

    Raises:
        SettingsInvalidError: the environment is not complete.

    """
    engines = Connections.from_settings(settings or ApiSettings.from_environment())
    registry = CollectorRegistry()
    app = Api(
        title="CaR Labeler",
        description=_ABOUT,
        version=metadata.version("car-labeler"),
        redoc_url=None,
        lifespan=_closing,
        responses={"default": {"model": Problem, "content": {errors.PROBLEM: {}}, "description": "what went wrong"}},
    )
    app.state.engines = engines
    app.state.face = BackendContext.from_connections(engines, registry)
    app.state.probes = Probes(engines)
    app.state.metrics = MetricsPage(registry)
    registry.register(QueueMetrics(engines.probes))
    errors.install(app)
    # The last one added is the outermost.
    theirs = dict.fromkeys(label_studio.ADDRESSES, engines.settings.predict_max_body)
    app.add_middleware(BodyLimit, most=engines.settings.max_body, others=theirs)
    app.add_middleware(RequestLogging, metrics=RequestMetrics(registry))
    versioned = APIRouter(prefix="/api/v1")
    for part in (jobs, results, projects, vocabularies, recipes, keys):
        versioned.include_router(part.router)
    app.include_router(versioned)
    app.include_router(label_studio.router)
    app.include_router(health.router)
    app.include_router(metrics.router)
    return app


@asynccontextmanager
async def _closing(app: FastAPI) -> AsyncIterator[None]:
    yield
    app.state.probes.close()
    app.state.metrics.close()
    app.state.face.close()
    app.state.engines.close()
