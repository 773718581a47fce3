"""A real Label Studio as a process: SQLite in a folder, a port of its own, one user with both kinds of token."""

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from cli.embedded.ports import free_port
from cli.service.child_launcher import launch_command

EMAIL = "annotator@example.com"
PASSWORD = "only-for-tests"  # noqa: S105 - of a server that lives as long as the tests
TOKEN = "0123456789abcdef0123456789abcdef01234567"  # noqa: S105 - the same
START_SECONDS, STOP_SECONDS = 240, 15
LAST_LINES = 40


@dataclass(frozen=True)
class Server:
    """A Label Studio that answers."""

    url: str
    log: Path
    files: Path
    """The folder whose files it may serve as local files."""
    email: str = EMAIL
    password: str = PASSWORD
    token: str = TOKEN
    """The user's legacy token."""

    def personal_token(self) -> str:
        """A new personal access token (JWT). The one made before it is withdrawn: a user has one."""
        with httpx.Client(base_url=self.url, headers={"Authorization": f"Token {self.token}"}, trust_env=False) as api:
            for old in api.get("/api/token/").raise_for_status().json():
                api.post("/api/token/blacklist/", json={"refresh": old["token"]}).raise_for_status()
            return str(api.post("/api/token/").raise_for_status().json()["token"])


def program() -> Path:
    """Where Label Studio's own environment is: `LABEL_STUDIO_VENV`, or .venv-label-studio beside pyproject.toml."""
    return _venv() / "bin" / "label-studio"


def _venv() -> Path:
    return Path(os.environ.get("LABEL_STUDIO_VENV", Path(__file__).parents[2] / ".venv-label-studio"))


def _empty_database() -> Path:
    """Kept beside the program: making its tables takes Label Studio longer than all else at its first start."""
    return _venv() / "empty.sqlite3"


@contextmanager
def label_studio(folder: Path) -> Iterator[Server]:
    """One with an empty database in the folder; it ends with the block, and with this process.

    Raises:
        RuntimeError: it did not start, with its last words.

    """
    database = folder / "data" / "label_studio.sqlite3"
    database.parent.mkdir(parents=True, exist_ok=True)
    if _empty_database().exists():
        shutil.copyfile(_empty_database(), database)
    port = free_port()
    log = folder / "label-studio.log"
    command = [str(program()), "start", "--no-browser", "--port", str(port), "--internal-host", "127.0.0.1"]
    with log.open("wb") as written:
        process = subprocess.Popen(
            launch_command(command, deadly=signal.SIGKILL),
            env=_environment(folder, port),
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
        )
    server = Server(f"http://127.0.0.1:{port}", log, folder)
    try:
        _wait(server, process)
        if not _empty_database().exists():
            _keep(database)
        yield server
    finally:
        _stop(process)


def _environment(folder: Path, port: int) -> dict[str, str]:
    """Of the process: nothing of ours, nothing sent home, and backends on this machine allowed."""
    ours = ("LABEL_STUDIO_", "DATABASE_", "DJANGO_", "AWS_", "CAR_", "CELERY_", "S3_", "BASIC_AUTH_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    settings = {
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder / "data"),
        "LABEL_STUDIO_HOST": f"http://127.0.0.1:{port}",
        "LABEL_STUDIO_USERNAME": EMAIL,
        "LABEL_STUDIO_PASSWORD": PASSWORD,
        "LABEL_STUDIO_USER_TOKEN": TOKEN,
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(folder),
        "ML_BLOCK_LOCAL_IP": "false",
        "SSRF_PROTECTION_ENABLED": "false",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "LOG_LEVEL": "INFO",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "PYTHONUNBUFFERED": "1",
    }
    return inherited | settings


def _keep(database: Path) -> None:
    kept = _empty_database()
    written = kept.with_suffix(f".{os.getpid()}")
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(written)) as copy:
        source.backup(copy)
    written.replace(kept)


def _wait(server: Server, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            if httpx.get(f"{server.url}/health", timeout=2, trust_env=False).is_success:
                return
        time.sleep(0.3)
    last = "\n".join(server.log.read_text(errors="replace").splitlines()[-LAST_LINES:])
    raise RuntimeError(f"Label Studio did not start. Its last words:\n{last}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
