"""The roofline of this machine: the least time of a stage, from its arithmetic and its memory traffic.

Peaks are measured in the same run as the stages, on the same device, in the same precision, by the same clock. A busy
machine slows both, so the ratio of a stage's time to its floor stays comparable.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from evaluation.stopwatch import clock_of

_MATRIX_SIDES = {"cpu": (768, 1536), "cuda": (4096, 8192)}
"""Sizes of the measured products; the faster one is the device's peak."""
_COPY_MIB = {"cpu": 192, "cuda": 1024}
"""Larger than caches."""
_MAX_SECONDS = 2.0


@dataclass(frozen=True)
class Peaks:
    """The highest measured rates of a device, by the clock of its stages."""

    flop_per_s: float
    """Of a product of two large matrices."""
    bytes_per_s: float
    """Read and written by a copy within the device's memory."""

    def to_json(self) -> dict[str, Any]:
        return {"peak_flop_per_s": self.flop_per_s, "peak_bytes_per_s": self.bytes_per_s}


@dataclass(frozen=True)
class Floor:
    """The arithmetic and memory traffic that a stage's shapes require."""

    flop: float = 0.0
    """Floating-point operations, two a multiply-add."""
    moved: float = 0.0
    """Bytes that must be read from and written to the device's memory."""

    def seconds(self, peaks: Peaks) -> float:
        """Return the longer of the two, because arithmetic and traffic may overlap."""
        return max(self.flop / peaks.flop_per_s, self.moved / peaks.bytes_per_s)

    def ruled_by(self, peaks: Peaks) -> str:
        return "memory" if self.moved / peaks.bytes_per_s > self.flop / peaks.flop_per_s else "arithmetic"

    def __add__(self, other: "Floor") -> "Floor":
        return Floor(self.flop + other.flop, self.moved + other.moved)

    def __mul__(self, times: float) -> "Floor":
        return Floor(self.flop * times, self.moved * times)


@dataclass(frozen=True)
class Stage:
    """The time of one stage, with its floor where that is known."""

    seconds: float
    floor: Floor | None = None

    def to_json(self, peaks: Peaks) -> dict[str, Any]:
        """Return the figures; `times_floor` of 1 cannot be improved."""
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


def measure_peaks(device: torch.device, dtype: torch.dtype, *, turns: int = 5, scale: float = 1.0) -> Peaks:
    """Return the best of `turns`. `scale` below 1 makes matrices and copies smaller, for tests."""
    return Peaks(measure_flop_rate(device, dtype, turns=turns, scale=scale), measure_copy_rate(device, turns, scale))


def measure_flop_rate(device: torch.device, dtype: torch.dtype, *, turns: int = 5, scale: float = 1.0) -> float:
    """Return floating-point operations a second of the faster product of two large matrices."""
    rates = []
    for side in (max(8, int(scale * side)) for side in _MATRIX_SIDES[device.type]):
        a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
        rates.append(2.0 * side**3 / _least(partial(torch.mm, a, b, out=torch.empty_like(a)), device, turns))
    return max(rates)


def measure_copy_rate(device: torch.device, turns: int = 5, scale: float = 1.0) -> float:
    """Return bytes a second that a copy within the device's memory reads and writes."""
    source = torch.ones(max(1, int(scale * _COPY_MIB[device.type])) << 18, device=device)  # MiB of float32
    target = torch.empty_like(source)
    return 2.0 * source.nbytes / _least(lambda: target.copy_(source), device, turns)


def _least(call: Callable[[], object], device: torch.device, turns: int) -> float:
    call()
    clock, best, spent = clock_of(device), float("inf"), 0.0
    for _ in range(turns):
        start = clock()
        call()
        seconds = clock() - start
        best, spent = min(best, seconds), spent + seconds
        if spent > _MAX_SECONDS:  # a precision that the device only emulates
            break
    return max(best, 1e-9)
