"""`car up` as a child of this process: started, waited for, stopped."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cli.embedded.data_dir import is_held, read_notes
from cli.embedded.ports import free_port
from cli.errors import DataDirInUseError, EngineFailedError, EnginesNeverRanError
from cli.service.api_client import ApiAddress
from cli.service.child_launcher import launch_command

USUAL_PORT = 9090
_START_SECONDS, _STOP_SECONDS = 180, 90
_LOOK_SECONDS = 0.2
_LAST_LINES = 12


@dataclass(frozen=True)
class ServiceProcess:
    """A `car up` that runs until the block of `car_up` ends."""

    url: str
    data_dir: Path
    log: Path
    process: "subprocess.Popen[bytes]"

    def check(self) -> None:
        """Raises: EngineFailed, where it has ended; with its last words."""
        if (code := self.process.poll()) is not None:
            raise EngineFailedError(f"`car up` ended by itself (exit code {code}). {self.last_words()}")

    def address(self) -> ApiAddress:
        """Of its API, and the key that it made."""
        return ApiAddress(self.url, read_notes(self.data_dir)["api"]["CAR_API_KEY"])

    def last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        said = "\n".join(f"  {line}" for line in lines[-_LAST_LINES:]) or "  it said nothing"
        return f"Its last words ({self.log} and the files beside it have all):\n{said}"

    def ready(self) -> bool:
        import httpx

        try:
            answers = httpx.get(f"{self.url}/readyz", timeout=2, trust_env=False).is_success
            return answers and bool(read_notes(self.data_dir)["api"]["CAR_API_KEY"])
        except (httpx.TransportError, EnginesNeverRanError, KeyError):
            return False


@contextmanager
def car_up(data_dir: Path, port: int = USUAL_PORT) -> Iterator[ServiceProcess]:
    """The service, ready, at this port, or at another one where it is taken. Stopped cleanly when the block ends, and
    when this process dies.

    Raises:
        DataDirInUse: another one runs on the folder.
        EngineFailed: it did not start, with its last words.

    """
    if is_held(data_dir):
        raise DataDirInUseError(
            f"a `car up` runs on {data_dir} already; stop it, or give another folder with --data-dir"
        )
    port = free_port(port)
    log = data_dir / "logs" / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    program = [sys.executable, "-m", "cli.main", "up", "--port", str(port), "--data-dir", str(data_dir)]
    with log.open("wb") as written:
        process = subprocess.Popen(  # noqa: S603 - our own program
            launch_command(program, deadly=signal.SIGTERM),
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"},
            start_new_session=True,  # Ctrl-C reaches us, and we stop it
        )
    background = ServiceProcess(f"http://127.0.0.1:{port}", data_dir, log, process)
    try:
        _wait(background)
        yield background
    finally:
        _stop(process)


def _wait(background: ServiceProcess) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not background.ready():
        background.check()
        if time.monotonic() > deadline:
            raise EngineFailedError(f"`car up` is not ready after {_START_SECONDS} s. {background.last_words()}")
        time.sleep(_LOOK_SECONDS)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()  # what it started goes with it
        process.wait()
