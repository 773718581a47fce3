"""Our whole service as its user runs it: `car up` on a folder of its own, told of a Label Studio."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.embedded.data_dir import read_notes
from cli.embedded.ports import free_port
from cli.service.service_process import ServiceProcess, car_up
from tests.label_studio.user import eventually

_COMMAND_SECONDS, _START_SECONDS = 300, 60
_LAST = 3000
_OURS = ("LABEL_STUDIO_", "CAR_", "BASIC_AUTH_", "DATABASE_URL", "CELERY_", "AWS_", "S3_")


@dataclass(frozen=True)
class Service:
    """A `car up` that is ready."""

    up: ServiceProcess
    http: httpx.Client
    """With its admin key."""
    environment: Mapping[str, str]
    """With which `car` speaks with it and with its Label Studio."""

    def car(self, *arguments: str, code: int = 0) -> str:
        """What a command of ours says. Raises: AssertionError, where it ends with another code."""
        said = subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments],
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
        assert said.returncode == code, f"car {' '.join(arguments)}: {said.returncode}\n{said.stdout}\n{said.stderr}"
        return said.stdout + said.stderr

    def connect(self, project: int, *options: str) -> str:
        return self.car("label-studio", "connect", "--project", str(project), "--url", self.up.url, *options)

    def project(self, number: int) -> dict[str, Any]:
        answer = self.http.get(f"/api/v1/label-studio/projects/{number}")
        assert answer.is_success, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def tasks(self, number: int) -> dict[int, dict[str, Any]]:
        """By Label Studio's number."""
        found: dict[int, dict[str, Any]] = {}
        parameters: dict[str, Any] = {"limit": 100}
        while True:
            answer = self.http.get(f"/api/v1/label-studio/projects/{number}/tasks", params=parameters)
            assert answer.is_success, answer.text
            page = answer.json()
            found |= {one["ls_task_id"]: one for one in page["items"]}
            if not page["next"]:
                return found
            parameters["cursor"] = page["next"]

    def kill_io_worker(self) -> None:
        """With kill -9, and what it started. `car up` starts it again."""
        os.killpg(self._worker("io"), signal.SIGKILL)

    @contextmanager
    def worker_stopped(self, queue: str) -> Iterator[None]:
        """While the block runs, that of gpu or io and what it started do nothing and say nothing."""
        group = self._worker(queue)
        os.killpg(group, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(group, signal.SIGCONT)

    def _worker(self, queue: str) -> int:
        """The process, as `car up` started it last; waits where that is yet to come."""
        words = f"\0--queues\0{queue}\0".encode()
        return eventually(lambda: _child(self.up.process.pid, words), bool, _START_SECONDS)

    def requests(self, path: str) -> list[dict[str, Any]]:
        """What the API logged of those, as they were answered."""
        lines = (self.up.data_dir / "logs" / "api.log").read_text().splitlines()
        logged = [json.loads(line) for line in lines if line.startswith("{")]
        return [one for one in logged if one.get("event") == "request" and one["path"] == path]


def _child(parent: int, words: bytes) -> int:
    """0: it has none with these words in its command line."""
    tasks = Path(f"/proc/{parent}/task").glob("*/children")
    for number in [number for children in tasks for number in children.read_text().split()]:
        with suppress(FileNotFoundError, ProcessLookupError):
            if words in Path(f"/proc/{number}/cmdline").read_bytes():
                return int(number)
    return 0


@contextmanager
def service(folder: Path, **environment: str) -> Iterator[Service]:
    """On the demo's weights and embedded engines; `environment` says which Label Studio there is."""
    settings = {
        "CAR_MODELS": "demo",
        "CAR_SYNC_SECONDS": "0",
        "CAR_MAINTENANCE_SECONDS": "2",
        "CAR_POSTPROCESS_PROCESSES": "0",
    }
    mine = {"CAR_DATA_DIR": str(folder), **settings, **environment}
    foreign = [name for name in os.environ if name.startswith(_OURS) and name != "LABEL_STUDIO_VENV"]
    with pytest.MonkeyPatch.context() as patched:
        for name in foreign:
            patched.delenv(name)
        for name, value in mine.items():
            patched.setenv(name, value)
        with car_up(folder, free_port()) as up:
            notes = read_notes(folder)
            said = {**os.environ, **notes["environment"], **notes["api"], "COLUMNS": "200"}
            key = {"Authorization": f"Bearer {notes['api']['CAR_API_KEY']}"}
            with httpx.Client(base_url=up.url, headers=key, trust_env=False, timeout=60) as http:
                yield Service(up, http, said)


def last_log_lines(folder: Path) -> str:
    """Of its processes, for a failed test."""
    names = ("up", "api", "worker-gpu", "worker-io", "scheduler")
    texts = {name: (folder / "logs" / f"{name}.log").read_text(errors="replace") for name in names}
    return "\n".join(f"--- {name}\n{text[-_LAST:]}" for name, text in texts.items())
