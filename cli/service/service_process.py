"""`car up` as a child process: start it, wait until it is ready, stop it."""

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
from cli.embedded.ports import free_port, is_free
from cli.errors import DataDirInUseError, EngineFailedError, EnginesNeverRanError
from cli.service.api_client import ApiAddress
from cli.service.child_launcher import launch_command

USUAL_PORT = 9090
_START_SECONDS, _STOP_SECONDS = 180, 90
_POLL_SECONDS = 0.2
_PORT_ATTEMPTS = 3
_LAST_LINES = 12


@dataclass(frozen=True)
class ServiceProcess:
    """A `car up` that runs until the block of `car_up` ends."""

    url: str
    data_dir: Path
    log: Path
    process: "subprocess.Popen[bytes]"

    def check(self) -> None:
        """Raise EngineFailedError, with the end of the log, if the process has ended."""
        if (code := self.process.poll()) is not None:
            raise EngineFailedError(f"`car up` ended unexpectedly (exit code {code}). {self._log_tail()}")

    def address(self) -> ApiAddress:
        return ApiAddress(self.url, read_notes(self.data_dir)["api"]["CAR_API_KEY"])

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_ready():
            self.check()
            if time.monotonic() > deadline:
                raise EngineFailedError(f"`car up` is not ready after {_START_SECONDS} s. {self._log_tail()}")
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            self.process.terminate()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()  # its children end with it
            self.process.wait()

    def _is_ready(self) -> bool:
        """Return whether the API is ready and accepts our own key: another service may have taken the port."""
        import httpx

        try:
            headers = {"Authorization": f"Bearer {self.address().key}"}
            with httpx.Client(base_url=self.url, headers=headers, timeout=2, trust_env=False) as client:
                return all(client.get(path).is_success for path in ("/readyz", "/api/v1/presets"))
        except (httpx.TransportError, EnginesNeverRanError, KeyError):
            return False

    def _log_tail(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        tail = "\n".join(f"  {line}" for line in lines[-_LAST_LINES:]) or "  (empty)"
        return f"The last lines of {self.log} (other logs are in the same folder):\n{tail}"


@contextmanager
def car_up(data_dir: Path, port: int = USUAL_PORT) -> Iterator[ServiceProcess]:
    """Run the service on `port`, or on a free port if it is taken, until the block or this process ends.

    The API binds its port seconds after it was chosen. If another process took it meanwhile, `car up` is started again
    on another one.

    Raises:
        DataDirInUseError: another `car up` uses the folder.
        EngineFailedError: the service did not start; the message has the end of its log.

    """
    if is_held(data_dir):
        raise DataDirInUseError(f"`car up` already runs on {data_dir}; stop it, or choose another folder (--data-dir)")
    for attempt in range(1, _PORT_ATTEMPTS + 1):
        port = free_port(port)
        service = _start(data_dir, port)
        try:
            try:
                service.wait_until_ready()
            except EngineFailedError:
                service.stop()
                if attempt == _PORT_ATTEMPTS or is_free(port):
                    raise
                continue
            yield service
            return
        finally:
            service.stop()


def _start(data_dir: Path, port: int) -> ServiceProcess:
    log = data_dir / "logs" / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    program = [sys.executable, "-m", "cli.main", "up", "--port", str(port), "--data-dir", str(data_dir)]
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own program
            launch_command(program, deadly=signal.SIGTERM),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"},
            start_new_session=True,  # Ctrl-C reaches only this process, which then stops the child
        )
    return ServiceProcess(f"http://127.0.0.1:{port}", data_dir, log, process)
