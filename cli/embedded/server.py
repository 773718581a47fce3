"""A server program as a child process: its log, its pid file, starting and stopping it."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from cli.errors import EngineFailedError
from cli.service.child_launcher import launch_command

_KILLED_SECONDS = 10
_LAST_LINES = 8


class Server:
    """A server that runs until `stop`. It has its own session, so Ctrl-C reaches only this process.

    `stop_signal` makes it close its data and end. It also gets this signal if this process dies.
    """

    def __init__(self, name: str, data_dir: Path, stop_signal: signal.Signals) -> None:
        self.name = name
        self.log = data_dir / "logs" / f"{name}.log"
        self._data_dir = data_dir
        self._pid_file = data_dir / "run" / f"{name}.pid"
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def start(self, program: Sequence[str], *, cwd: Path, user: str | None = None, env: Mapping[str, str]) -> None:
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(  # noqa: S603 - the program is from our wheel, the arguments are our own
                launch_command(program, deadly=self._stop_signal, user=user),
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        pid = self._process.pid
        self._pid_file.write_text(f"{pid} {_start_time(pid)}\n{_folder_id(self._data_dir)}\n", encoding="ascii")

    def ended(self) -> str | None:
        """Return how it ended by itself; None while it runs, or after `stop`."""
        code = self._process.poll() if self._process else None
        return None if code is None else _ending(code)

    def wait_until(self, answers: Callable[[], bool], *, seconds: float) -> None:
        """Wait until `answers` returns true.

        Raises:
            EngineFailedError: it ended, or the time is over.

        """
        deadline = time.monotonic() + seconds
        while not answers():
            if ending := self.ended():
                raise EngineFailedError(f"{self.name} ended at its start ({ending}): {self.last_log_lines()}")
            if time.monotonic() > deadline:
                raise EngineFailedError(f"{self.name} does not answer after {seconds:.0f} s: {self.last_log_lines()}")
            time.sleep(0.05)

    def last_log_lines(self) -> str:
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").strip().splitlines()
        return f"{' | '.join(lines[-_LAST_LINES:]) or 'it said nothing'} (all of it in {self.log})"

    def stop(self, *, seconds: float) -> None:
        """Ask it to end, and kill it after `seconds`. A second call does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(self._stop_signal)
        deadline = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        with suppress(ProcessLookupError):
            process.kill()
        process.wait(_KILLED_SECONDS)
        self._pid_file.unlink(missing_ok=True)

    def stop_leftover(self, *, seconds: float) -> bool:
        """Stop the server that a killed process left running in this data folder, and return whether there was one.

        The pid file of a copied data folder names a server of the original, which is left alone.
        """
        pid, start_time, folder_id = self._recorded()
        is_ours = pid > 0 and start_time == _start_time(pid) and _runs_in(pid, self._data_dir, folder_id)
        if is_ours:
            deadline = time.monotonic() + seconds
            with suppress(ProcessLookupError):
                os.kill(pid, self._stop_signal)
            while start_time == _start_time(pid) and time.monotonic() < deadline:
                time.sleep(0.02)
            if start_time == _start_time(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                while start_time == _start_time(pid) and time.monotonic() < deadline + _KILLED_SECONDS:
                    time.sleep(0.02)
        self._pid_file.unlink(missing_ok=True)
        return is_ours

    def _recorded(self) -> tuple[int, str, str]:
        try:
            process, _, folder_id = self._pid_file.read_text(encoding="ascii").partition("\n")
            pid, start_time = process.split(" ", 1)
            return int(pid), start_time, folder_id.strip()
        except (OSError, ValueError):
            return 0, "", ""


def _runs_in(pid: int, data_dir: Path, folder_id: str) -> bool:
    """Return whether the process works in this very folder: by path and inode of its working directory, or, where the
    system does not show that, by the folder's recorded identity.
    """
    link = Path(f"/proc/{pid}/cwd")
    try:
        path = link.readlink()
        return path.is_relative_to(data_dir.resolve()) and path.samefile(link)
    except OSError:
        return folder_id == _folder_id(data_dir)


def _folder_id(folder: Path) -> str:
    """Return device and inode of a folder, which a copy does not share."""
    status = folder.stat()
    return f"{status.st_dev}:{status.st_ino}"


def _start_time(pid: int) -> str:
    """Return when the process started, which tells it from a later one with the same number; empty if it ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
        listed = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S603, S607
        return listed.stdout.strip()
    return "" if fields[0] == "Z" else fields[19]


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
