"""Clocks of CPU and CUDA work, and seconds by stage."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

Clock = Callable[[], float]
"""Seconds from any fixed point."""


def clock_of(device: torch.device) -> Clock:
    """Return a clock of CPU seconds of the process, which other programs disturb least; on CUDA of finished work."""
    if device.type != "cuda":
        return time.process_time

    def finished() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return finished


@dataclass
class Stopwatch:
    """Seconds by stage: the least total of several turns."""

    clock: Clock
    least: dict[str, float] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)
    """Of this turn."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to the stage."""
        start = self.clock()
        yield
        self.add(name, self.clock() - start)

    def add(self, name: str, seconds: float) -> None:
        self.spent[name] = self.spent.get(name, 0.0) + seconds

    def end_turn(self) -> None:
        for name, seconds in self.spent.items():
            self.least[name] = min(seconds, self.least.get(name, seconds))
        self.spent.clear()
