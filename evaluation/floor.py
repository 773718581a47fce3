"""The least time that a stage can take: its arithmetic and its memory traffic over what this machine was seen to do.

Peaks are measured in the run whose stages they judge, on the same device, in the same precision, by the same clock. So
a busy machine slows both, and what is told of a stage is how often its time holds its floor.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

Clock = Callable[[], float]
"""Seconds from any fixed point."""

_MATRICES = {"cpu": (768, 1536), "cuda": (4096, 8192)}
"""Sides of the products that are tried: the one that a device does best is its peak."""
_COPIED_MIB = {"cpu": 192, "cuda": 1024}
"""More than caches hold."""
_ENOUGH_SECONDS = 2.0


@dataclass(frozen=True)
class Peaks:
    """The most that a device was seen to do in a second of the clock by which stages are timed."""

    flop_per_s: float
    """Of a product of two large matrices."""
    bytes_per_s: float
    """Read and written by a copy within the device's memory."""

    def to_json(self) -> dict[str, Any]:
        return {"peak_flop_per_s": self.flop_per_s, "peak_bytes_per_s": self.bytes_per_s}


@dataclass(frozen=True)
class Floor:
    """What cannot be saved, computed from shapes."""

    flop: float = 0.0
    """Floating-point operations, two a multiply-add."""
    moved: float = 0.0
    """Bytes that must be read from and written to the device's memory."""

    def seconds(self, peaks: Peaks) -> float:
        """Arithmetic and traffic overlap at best, so the longer of the two rules."""
        return max(self.flop / peaks.flop_per_s, self.moved / peaks.bytes_per_s)

    def ruled_by(self, peaks: Peaks) -> str:
        return "memory" if self.moved / peaks.bytes_per_s > self.flop / peaks.flop_per_s else "arithmetic"

    def __add__(self, other: "Floor") -> "Floor":
        return Floor(self.flop + other.flop, self.moved + other.moved)

    def __mul__(self, times: float) -> "Floor":
        return Floor(self.flop * times, self.moved * times)


@dataclass(frozen=True)
class Stage:
    """What a part of the work took, beside its floor (none: nobody has worked it out)."""

    seconds: float
    floor: Floor | None = None

    def to_json(self, peaks: Peaks) -> dict[str, Any]:
        """`times_floor` is 1 where nothing is left to gain."""
        if self.floor is None:
            return {"seconds": self.seconds}
        least = self.floor.seconds(peaks)
        return {
            "seconds": self.seconds,
            "floor_seconds": least,
            "times_floor": self.seconds / least if least else None,
            "ruled_by": self.floor.ruled_by(peaks),
            "floor_flop": self.floor.flop,
            "floor_bytes": self.floor.moved,
        }


def clock_of(device: torch.device) -> Clock:
    """CPU seconds of the whole process, which other programs disturb least; on CUDA wall seconds of finished work."""
    if device.type != "cuda":
        return time.process_time

    def finished() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return finished


def measure_peaks(device: torch.device, dtype: torch.dtype, *, turns: int = 5, share: float = 1.0) -> Peaks:
    """The best of `turns`. `share` below 1 tries smaller matrices and copies, for tests."""
    clock = clock_of(device)
    kind = "cuda" if device.type == "cuda" else "cpu"
    rates = []
    for side in (max(8, int(share * side)) for side in _MATRICES[kind]):
        a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
        rates.append(2.0 * side**3 / _least(partial(torch.mm, a, b, out=torch.empty_like(a)), clock, turns))
    block = torch.ones(max(1, int(share * _COPIED_MIB[kind])) << 18, device=device)  # MiB of float32
    there = torch.empty_like(block)
    traffic = 2.0 * block.nbytes / _least(lambda: there.copy_(block), clock, turns)
    return Peaks(max(rates), traffic)


def _least(call: Callable[[], object], clock: Clock, turns: int) -> float:
    call()
    best, spent = float("inf"), 0.0
    for _ in range(turns):
        start = clock()
        call()
        took = clock() - start
        best, spent = min(best, took), spent + took
        if spent > _ENOUGH_SECONDS:  # a precision that the device only emulates
            break
    return max(best, 1e-9)
