"""The processes of `car up`: start, watch, restart and stop them."""

import os
import re
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cli.errors import ProcessFailedError
from cli.service.child_launcher import launch_command

_DEATHS, _WITHIN_SECONDS = 5, 60.0
_LONGEST_DELAY = 8.0
_LAST_LINES = 12
_GROUP_SECONDS = 2.0
_ROTATE_BYTES = 32 * 2**20
_SERIOUS = re.compile(
    r"\[(?:warning|error|critical) *\]|\"level\": ?\"(?:warning|error|critical)\"|^(?:WARNING|ERROR|CRITICAL)\b"
)


@dataclass
class Child:
    """One process, its log and the times it died."""

    name: str
    program: Sequence[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    read_to: int = 0
    started_at: int = 0
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=_DEATHS))
    again_at: float = 0.0


class Processes:
    """Child processes that end when this process ends in any way.

    Their output goes to `logs`/NAME.log; warnings and errors are also passed to `report`. Each has its own session, so
    Ctrl-C reaches only this process, which then asks them to stop.
    """

    def __init__(
        self, logs: Path, environment: Mapping[str, str], report: Callable[[str], None], *, first_delay: float = 0.5
    ) -> None:
        self._logs = logs
        self._first_delay = first_delay
        self._environment = {**environment, "PYTHONUNBUFFERED": "1"}
        self._report = report
        self._children: dict[str, Child] = {}

    def start(self, name: str, program: Sequence[str]) -> None:
        child = Child(name, program, self._logs / f"{name}.log")
        if child.log.exists() and child.log.stat().st_size > _ROTATE_BYTES:
            child.log.replace(child.log.with_suffix(".log.1"))
        self._children[name] = child
        self._spawn(child)

    def pid(self, name: str) -> int | None:
        process = self._children[name].process
        return process.pid if process else None

    def watch(self) -> None:
        """Check all once: pass warnings on, and restart what died, with growing delays.

        Raises:
            ProcessFailedError: one died five times within a minute; the message has the end of its log.

        """
        for child in self._children.values():
            self._pass_on(child)
            now = time.monotonic()
            if child.process is None:
                if now >= child.again_at:
                    self._spawn(child)
            elif (code := child.process.poll()) is not None:
                self._died(child, code, now)

    def stop(self, *, seconds: float) -> list[str]:
        """Ask all to end, kill those that run after `seconds`, and return their names."""
        running = {name: child.process for name, child in self._children.items() if child.process}
        for process in running.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while any(process.poll() is None for process in running.values()) and time.monotonic() < deadline:
            time.sleep(0.05)
        killed = [name for name, process in running.items() if process.poll() is None]
        for process in running.values():
            _end_group(process)
        for child in self._children.values():
            self._pass_on(child)
            child.process = None
        self._children.clear()
        return killed

    def _spawn(self, child: Child) -> None:
        with child.log.open("ab") as log:
            child.read_to = child.started_at = log.tell()
            child.process = subprocess.Popen(  # noqa: S603 - our own programs
                launch_command(child.program, deadly=signal.SIGKILL),  # PostgreSQL has what it held
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _died(self, child: Child, code: int, now: float) -> None:
        if child.process:
            _end_group(child.process)
        child.process = None
        self._pass_on(child)
        child.deaths.append(now)
        ending = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        lately = [death for death in child.deaths if now - death < _WITHIN_SECONDS]
        if len(lately) == _DEATHS:
            raise ProcessFailedError(
                f"{child.name} died {_DEATHS} times within a minute ({ending}). The end of {child.log}:\n"
                + self._last_log_lines(child)
            )
        delay = min(_LONGEST_DELAY, self._first_delay * 2 ** (len(lately) - 1))
        child.again_at = now + delay
        self._report(f"{child.name} died ({ending}); it starts again in {delay:g} s. Its log: {child.log}")

    def _pass_on(self, child: Child) -> None:
        with child.log.open("rb") as log:
            log.seek(child.read_to)
            new = log.read()
        whole = new[: new.rfind(b"\n") + 1]  # an incomplete line is read next time
        child.read_to += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            if _SERIOUS.search(line):
                self._report(f"{child.name}: {line}")

    def _last_log_lines(self, child: Child) -> str:
        with child.log.open("rb") as log:
            log.seek(child.started_at)
            return "\n".join(log.read().decode(errors="replace").strip().splitlines()[-_LAST_LINES:])


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the process and all its children, before anything is restarted."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # Grandchildren cannot be waited for, and a zombie stays in the group: hence the limit.
    deadline = time.monotonic() + _GROUP_SECONDS
    with suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.01)
