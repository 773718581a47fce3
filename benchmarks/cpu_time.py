"""CPU time of this process by thread, and of its child processes by program, from Linux's /proc."""

import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

_SAMPLE_SECONDS = 0.05
_TICK = os.sysconf("SC_CLK_TCK")


class CpuTime:
    """CPU seconds of a `with` block, sampled often because a thread's counter ends with the thread."""

    def __init__(self) -> None:
        self._threads: dict[int, tuple[str, float]] = {}
        self._before: dict[int, float] = {}
        self._programs_before: dict[str, float] = {}
        self._process_before = 0.0
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample_often, name="sampler", daemon=True)
        self.threads: dict[str, float] = {}
        """By the first word of a thread's name; "other" was in no sample."""
        self.programs: dict[str, float] = {}
        """By the names of the child processes' programs."""

    def __enter__(self) -> Self:
        self._before = {number: seconds for number, _, seconds in _threads()}
        self._programs_before = _programs()
        self._process_before = time.process_time()
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._sampler.join()
        self._sample()
        roles: dict[str, float] = defaultdict(float)
        for number, (name, seconds) in self._threads.items():
            roles[name] += seconds - self._before.get(number, 0.0)
        roles.pop("sampler", None)
        roles["other"] = max(0.0, time.process_time() - self._process_before - sum(roles.values()))
        self.threads = dict(sorted(roles.items(), key=lambda role: -role[1]))
        after = _programs()
        self.programs = {name: seconds - self._programs_before.get(name, 0.0) for name, seconds in after.items()}

    def _sample_often(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        for number, name, seconds in _threads():
            self._threads[number] = name, seconds


def _threads() -> Iterator[tuple[int, str, float]]:
    for thread in threading.enumerate():
        with suppress(OSError):  # it has just ended
            ran = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text("ascii").split()[0]
            name = "model" if thread is threading.main_thread() else thread.name.split("_")[0].split("-")[0]
            yield thread.native_id or 0, name, int(ran) / 1e9


def _programs() -> dict[str, float]:
    """Return the CPU seconds of all descendants of this process, including ended ones."""
    seconds: dict[str, float] = defaultdict(float)
    children: dict[int, list[tuple[int, str, float]]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            head, _, tail = stat.read_text("utf-8", "replace").rpartition(")")
            number, _, name = head.partition(" (")
            fields = tail.split()
            used = sum(int(field) for field in fields[11:15]) / _TICK
            children[int(fields[1])].append((int(number), name, used))
    waiting = [os.getpid()]
    while waiting:
        for child, program, used in children.get(waiting.pop(), ()):
            seconds[program] += used
            waiting.append(child)
    return seconds
