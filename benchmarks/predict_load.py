"""Requests of Label Studio to an API process, timed by the client."""

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import httpx
from sqlalchemy import text

from benchmarks.small_requests import SMALL_GOAL_MS, Observed, Span, send_small_requests
from car.model_version import CODE_VERSION, model_version
from cli.commands.bench.environment import BenchEnvironment
from cli.commands.bench.fake_model import fake_segmentation
from cli.embedded.ports import free_port
from cli.errors import ProcessFailedError
from db import model_registry, vocabularies
from db.label_studio import outbox
from db.results import store as result_store
from db.results.store import NewResult
from db.session import transaction

_CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">'
    '<Label value="cat"/><Label value="dog"/></BrushLabels></View>'
)
_WEIGHTS = {"proposal": "0" * 64, "classifier": "1" * 64}
_JSON = {"Content-Type": "application/json"}
_START_SECONDS = 60
_WARM_UP = 20
"""Small requests of each kind before any is counted."""
_PHASES = ("new", "queued", "known")

Milliseconds = dict[str, float]


def measure(
    environment: BenchEnvironment, *, tasks: int, projects: int, region_bytes: int, samples: int
) -> dict[str, Any]:
    """Send `projects` projects through all phases, and more until each small request has `samples` both alone and
    during /predict.
    """
    with transaction(environment.engine) as session:
        model_registry.register(session, model_registry.ANY, model_registry.ANY, _WEIGHTS)
    spans: dict[str, list[Span]] = {phase: [] for phase in _PHASES}
    sizes: list[int] = []
    posted = {"/health": "", "/setup": json.dumps(_setup(1_000_000))}
    with (
        _api(environment) as url,
        httpx.Client(base_url=url, timeout=120, trust_env=False) as client,
        send_small_requests(url, posted) as observed,
    ):
        idle = [_idle(observed, samples)]
        for number in count(1):
            for phase, span, size in _phases(environment, client, number, tasks, region_bytes):
                spans[phase].append(span)
                sizes.append(size)
            busy = [span for phase_spans in spans.values() for span in phase_spans]
            if number >= projects and _fewest(observed(), busy) >= samples:
                break
        requests = observed()
    return {
        "predict_ms": {phase: _figures(phase_spans) for phase, phase_spans in spans.items()},
        "answer_bytes": max(sizes),
        "small_ms": {
            when: {path: _figures(latencies) for path, latencies in _during(requests, periods).items()}
            for when, periods in (("idle", idle), ("beside", busy))
        },
    }


def _idle(observed: Observed, samples: int) -> Span:
    """Return a period without other requests, after the warm-up."""
    always = Span(0, math.inf)
    while _fewest(observed(), [always]) < _WARM_UP:
        time.sleep(0.1)
    begun = time.monotonic()
    while _fewest(observed(), [Span(begun, math.inf)]) < samples:
        time.sleep(0.1)
    return Span(begun, time.monotonic())


def _during(requests: Mapping[str, list[Span]], periods: Sequence[Span]) -> dict[str, list[Span]]:
    """Return the requests that overlap one of the periods."""
    return {
        path: [span for span in spans if any(span.overlaps(period) for period in periods)]
        for path, spans in requests.items()
    }


def _fewest(requests: Mapping[str, list[Span]], periods: Sequence[Span]) -> int:
    return min(len(spans) for spans in _during(requests, periods).values())


def _phases(
    environment: BenchEnvironment, client: httpx.Client, number: int, tasks: int, region_bytes: int
) -> Iterator[tuple[str, Span, int]]:
    """Send a project's tasks in each phase; yield the phase, its time, and the bytes of the response."""
    version = client.post("/setup", json=_setup(number)).raise_for_status().json()["model_version"]
    body = _predict_body(number, tasks)
    for phase in _PHASES:
        if phase == "known":
            _make_known(environment, number, version, region_bytes)
        begun = time.monotonic()
        response = client.post(
            "/predict", content=body, headers={"Content-Type": "application/json"}
        ).raise_for_status()
        yield phase, Span(begun, time.monotonic()), len(response.content)


@contextmanager
def _api(environment: BenchEnvironment) -> Iterator[str]:
    port = free_port()
    variables = {**environment.variables, "LOG_LEVEL": "ERROR"}
    process = subprocess.Popen(  # noqa: S603 - this program
        [sys.executable, "-m", "api", "--port", str(port)], env=variables | {"PYTHONPATH": ":".join(sys.path)}
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(process, url)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    until = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        try:
            httpx.get(f"{url}/health", trust_env=False).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.1)
        else:
            return
    raise ProcessFailedError("the API did not start; its error is above")


def _setup(project: int) -> dict[str, Any]:
    return {
        "project": f"{project}.1795220368",
        "schema": _CONFIG,
        "hostname": "http://127.0.0.1:8080",
        "access_token": "none",
        "extra_params": None,
    }


def _predict_body(project: int, tasks: int) -> bytes:
    """Return a request as large as Label Studio's: about 600 bytes per task."""
    pattern = {
        "meta": {},
        "created_at": "2026-11-21T00:19:30.771912Z",
        "updated_at": "2026-11-21T00:19:30.771924Z",
        "is_labeled": False,
        "overlap": 1,
        "inner_id": 1,
        "total_annotations": 0,
        "cancelled_annotations": 0,
        "total_predictions": 0,
        "comment_count": 0,
        "unresolved_comment_count": 0,
        "last_comment_updated_at": None,
        "project": project,
        "updated_by": None,
        "file_upload": None,
        "comment_authors": [],
        "annotations": [],
        "predictions": [],
    }
    first = project * 1_000_000
    listed = [
        {"id": first + position, "data": {"image": f"s3://images/project-{project}/camera/{position:08}.jpg"}} | pattern
        for position in range(tasks)
    ]
    params = {"login": None, "password": None, "context": None}
    document = {"tasks": listed, "project": f"{project}.1795220368", "label_config": _CONFIG, "params": params}
    return json.dumps(document).encode()


def _make_known(environment: BenchEnvironment, project: int, version: str, region_bytes: int) -> None:
    """Store results and rendered predictions for all images of the project."""
    region = {"value": {"format": "rle", "rle": [7] * (region_bytes // 3), "brushlabels": ["cat"]}}
    document = json.dumps({"model_version": version, "score": 0.5, "result": [region]})
    with transaction(environment.engine) as session:
        job = session.scalars(
            text("SELECT job_id FROM project WHERE ls_project_id = :number"), {"number": project}
        ).one()
        row = session.execute(text("SELECT vocabulary_id, recipe_id FROM job WHERE id = :job"), {"job": job}).one()
        words = vocabularies.get(session, row.vocabulary_id).vocabulary
        recipe = vocabularies.recipe(session, row.recipe_id).recipe
        new = NewResult(
            run_key=f"{project:064x}",
            sha256=f"{project:064x}",
            format="PNG",
            notes=(),
            segmentation=fake_segmentation(),
            vocabulary_id=row.vocabulary_id,
            recipe_id=row.recipe_id,
            model_version=model_version(_WEIGHTS, recipe, words),
            weights=_WEIGHTS,
            code_version=CODE_VERSION,
            device="none",
            masks_key="none",
            labelmap_key="none",
            preview_key=None,
        )
        result = result_store.store(session, "bench", [new])[new.run_key]
        done = (
            "UPDATE item SET state = 'done', result_id = :result, finished_at = now() WHERE job_id = :job RETURNING id"
        )
        outbox.enqueue(session, session.scalars(text(done), {"result": result, "job": job}).all())
        rendered = "UPDATE prediction SET document = :document, score = 0.5 WHERE ls_project_id = :project"
        session.execute(text(rendered), {"document": document, "project": project})


def _figures(spans: Sequence[Span]) -> Milliseconds:
    ordered = sorted(1000 * (span.ended - span.begun) for span in spans)
    return {
        "n": len(ordered),
        "median": statistics.median(ordered),
        "p99": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
        "max": ordered[-1],
        "late": sum(milliseconds > SMALL_GOAL_MS for milliseconds in ordered),
    }
