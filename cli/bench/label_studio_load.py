"""An API process that is asked as Label Studio asks, by a client that measures."""

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

from car.model_version import CODE_VERSION, model_version
from cli.bench.ground import Ground
from cli.bench.small_requests import SMALL_GOAL_MS, Seen, Span, asked_again_and_again
from cli.embedded.ports import free_port
from cli.errors import ProcessFailed
from db import offers, outbox, results, vocabularies
from db.results import NewResult
from db.session import transaction

_CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">'
    '<Label value="cat"/><Label value="dog"/></BrushLabels></View>'
)
_WEIGHTS = {"proposal": "0" * 64, "classifier": "1" * 64}
_START_SECONDS = 60
_WARM = 20
"""Small requests of each kind before any is counted."""
_PHASES = ("new", "queued", "known")

Milliseconds = dict[str, float]


def measure(here: Ground, *, tasks: int, projects: int, region_bytes: int, samples: int) -> dict[str, Any]:
    """So many projects, each phase of one after the other, and more of them until there are `samples` of each small
    request both alone and beside.
    """
    with transaction(here.engine) as session:
        offers.offer(session, offers.ANY, offers.ANY, _WEIGHTS)
    spans: dict[str, list[Span]] = {phase: [] for phase in _PHASES}
    sizes: list[int] = []
    posted = {"/health": "", "/setup": json.dumps(_setup(1_000_000))}
    with (
        _api(here) as url,
        httpx.Client(base_url=url, timeout=120, trust_env=False) as client,
        asked_again_and_again(url, posted) as seen,
    ):
        idle = [_idle(seen, samples)]
        for number in count(1):
            for phase, span, size in _phases(here, client, number, tasks, region_bytes):
                spans[phase].append(span)
                sizes.append(size)
            busy = [span for each in spans.values() for span in each]
            if number >= projects and _fewest(seen(), busy) >= samples:
                break
        told = seen()
    return {
        "predict_ms": {phase: _figures(some) for phase, some in spans.items()},
        "answer_bytes": max(sizes),
        "small_ms": {
            when: {path: _figures(each) for path, each in _within(told, some).items()}
            for when, some in (("idle", idle), ("beside", busy))
        },
    }


def _idle(seen: Seen, samples: int) -> Span:
    """A while in which nothing else is asked, once everybody has begun."""
    always = Span(0, math.inf)
    while _fewest(seen(), [always]) < _WARM:
        time.sleep(0.1)
    begun = time.monotonic()
    while _fewest(seen(), [Span(begun, math.inf)]) < samples:
        time.sleep(0.1)
    return Span(begun, time.monotonic())


def _within(seen: Mapping[str, list[Span]], during: Sequence[Span]) -> dict[str, list[Span]]:
    """The answers for which somebody waited meanwhile."""
    return {path: [one for one in each if any(one.meets(some) for some in during)] for path, each in seen.items()}


def _fewest(seen: Mapping[str, list[Span]], during: Sequence[Span]) -> int:
    return min(len(each) for each in _within(seen, during).values())


def _phases(
    here: Ground, client: httpx.Client, number: int, tasks: int, region_bytes: int
) -> Iterator[tuple[str, Span, int]]:
    """Each phase of a project, when it was asked, and the bytes of its answer."""
    version = client.post("/setup", json=_setup(number)).raise_for_status().json()["model_version"]
    sent = _predict(number, tasks)
    for phase in _PHASES:
        if phase == "known":
            _make_known(here, number, version, region_bytes)
        begun = time.monotonic()
        answer = client.post("/predict", content=sent, headers={"Content-Type": "application/json"}).raise_for_status()
        yield phase, Span(begun, time.monotonic()), len(answer.content)


@contextmanager
def _api(here: Ground) -> Iterator[str]:
    port = free_port()
    environment = {**here.environment, "LOG_LEVEL": "ERROR"}
    process = subprocess.Popen(  # noqa: S603 - this program
        [sys.executable, "-m", "api", "--port", str(port)], env=environment | {"PYTHONPATH": ":".join(sys.path)}
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
    raise ProcessFailed("the API did not start; its own words are above")


def _setup(project: int) -> dict[str, Any]:
    return {
        "project": f"{project}.1795220368",
        "schema": _CONFIG,
        "hostname": "http://127.0.0.1:8080",
        "access_token": "none",
        "extra_params": None,
    }


def _predict(project: int, tasks: int) -> bytes:
    """As large as Label Studio makes it: some 600 bytes a task."""
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
        {"id": first + place, "data": {"image": f"s3://pictures/project-{project}/camera/{place:08}.jpg"}} | pattern
        for place in range(tasks)
    ]
    params = {"login": None, "password": None, "context": None}
    document = {"tasks": listed, "project": f"{project}.1795220368", "label_config": _CONFIG, "params": params}
    return json.dumps(document).encode()


def _make_known(here: Ground, project: int, version: str, region_bytes: int) -> None:
    """As if workers had ended the project's pictures and a publisher had rendered them."""
    from cli.bench.noop import fixed

    region = {"value": {"format": "rle", "rle": [7] * (region_bytes // 3), "brushlabels": ["cat"]}}
    document = json.dumps({"model_version": version, "score": 0.5, "result": [region]})
    with transaction(here.engine) as session:
        job = session.scalars(text("SELECT job_id FROM project WHERE number = :number"), {"number": project}).one()
        row = session.execute(text("SELECT vocabulary_id, recipe_id FROM job WHERE id = :job"), {"job": job}).one()
        words = vocabularies.get(session, row.vocabulary_id).vocabulary
        recipe = vocabularies.recipe(session, row.recipe_id).recipe
        new = NewResult(
            run_key=f"{project:064x}",
            sha256=f"{project:064x}",
            format="PNG",
            notes=(),
            segmentation=fixed(),
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
        result = results.store(session, "bench", [new])[new.run_key]
        done = (
            "UPDATE item SET state = 'done', result_id = :result, finished_at = now() WHERE job_id = :job RETURNING id"
        )
        outbox.owe(session, session.scalars(text(done), {"result": result, "job": job}).all())
        rendered = "UPDATE prediction SET document = :document, score = 0.5 WHERE project = :project"
        session.execute(text(rendered), {"document": document, "project": project})


def _figures(spans: Sequence[Span]) -> Milliseconds:
    ordered = sorted(1000 * (one.ended - one.begun) for one in spans)
    return {
        "n": len(ordered),
        "median": statistics.median(ordered),
        "p99": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
        "max": ordered[-1],
        "late": sum(each > SMALL_GOAL_MS for each in ordered),
    }
