"""An API process that is asked as Label Studio asks, by a client that measures."""

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import httpx
from sqlalchemy import text

from car.model_version import CODE_VERSION, model_version
from cli.bench.ground import Ground
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
_IDLE_SECONDS = 2.0
_PAUSE_SECONDS = 0.01

Milliseconds = dict[str, float]
Made = TypeVar("Made")


def measure(here: Ground, *, tasks: int, projects: int, region_bytes: int) -> dict[str, Any]:
    """Every phase of every project, one after the other."""
    with transaction(here.engine) as session:
        offers.offer(session, offers.ANY, offers.ANY, _WEIGHTS)
    spent: dict[str, list[float]] = {"new": [], "queued": [], "known": []}
    sizes: list[int] = []
    with _api(here) as url, httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
        beside = _Beside(url)
        _, idle = beside.during(lambda: time.sleep(_IDLE_SECONDS))
        busy: dict[str, list[float]] = {}
        for number in range(1, projects + 1):
            version = client.post("/setup", json=_setup(number)).raise_for_status().json()["model_version"]
            sent = _predict(number, tasks)
            for phase, values in spent.items():
                if phase == "known":
                    _make_known(here, number, version, region_bytes)
                answered, seen = beside.during(partial(_ask, client, sent, values))
                sizes.append(answered)
                for path, times in seen.items():
                    busy.setdefault(path, []).extend(times)
    return {
        "predict_ms": {phase: _figures(values) for phase, values in spent.items()},
        "answer_bytes": max(sizes),
        "small_ms": {
            "idle": {path: _figures(values) for path, values in idle.items()},
            "beside": {path: _figures(values) for path, values in busy.items()},
        },
    }


def _ask(client: httpx.Client, sent: bytes, into: list[float]) -> int:
    """Bytes of the answer."""
    begun = time.perf_counter()
    answer = client.post("/predict", content=sent, headers={"Content-Type": "application/json"}).raise_for_status()
    into.append(1000 * (time.perf_counter() - begun))
    return len(answer.content)


class _Beside:
    """/health and /setup, asked again and again on connections of their own."""

    def __init__(self, url: str) -> None:
        self._url = url

    def during(self, work: Callable[[], Made]) -> tuple[Made, dict[str, list[float]]]:
        """What `work` made, and the milliseconds of each answer that came while it ran."""
        over = threading.Event()
        seen: dict[str, list[float]] = {"/health": [], "/setup": []}
        threads = [threading.Thread(target=self._repeat, args=(path, over, seen[path])) for path in seen]
        for thread in threads:
            thread.start()
        try:
            made = work()
        finally:
            over.set()
            for thread in threads:
                thread.join()
        return made, seen

    def _repeat(self, path: str, over: threading.Event, into: list[float]) -> None:
        body = _setup(1_000_000)
        with httpx.Client(base_url=self._url, timeout=30, trust_env=False) as client:
            client.get("/health")  # the connection is there
            while not over.is_set():
                begun = time.perf_counter()
                (client.get(path) if path == "/health" else client.post(path, json=body)).raise_for_status()
                into.append(1000 * (time.perf_counter() - begun))
                time.sleep(_PAUSE_SECONDS)


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


def _figures(values: list[float]) -> Milliseconds:
    ordered = sorted(values)
    return {
        "n": len(ordered),
        "median": statistics.median(ordered),
        "p99": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
        "max": ordered[-1],
    }
