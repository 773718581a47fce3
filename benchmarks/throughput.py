"""Throughput of a stream of images: images a second, the share of time the device is busy, and its peak memory.

The busy share on CUDA comes from torch's profiler in a run of its own, because profiling slows a run: it is the share
of the run in which at least one kernel was on the device. On a CPU it is the computing share of the threads' time.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Workload = Callable[[int], object]
"""Processes the given number of images, from pixels to encoded masks."""


@dataclass(frozen=True)
class Throughput:
    images: int
    seconds: float
    """Wall time."""
    busy_share: float
    peak_memory: int | None
    """Bytes of the device's memory, models included; None on a CPU."""

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds

    def to_json(self) -> dict[str, Any]:
        return {"images_per_s": self.images_per_s} | asdict(self)


def measure_throughput(workload: Workload, images: int, device: torch.device, *, warm_up: int) -> Throughput:
    """Run `warm_up` images, then time `images`; on CUDA profile `images` once more."""
    workload(warm_up)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    start, cpu_start = time.perf_counter(), time.process_time()
    workload(images)
    if cuda:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    if not cuda:
        busy = (time.process_time() - cpu_start) / (seconds * torch.get_num_threads())
        return Throughput(images, seconds, min(1.0, busy), None)
    return Throughput(images, seconds, busy_share(workload, images, device), torch.cuda.max_memory_allocated(device))


def busy_share(workload: Workload, images: int, device: torch.device) -> float:
    """Return the share of the time in which the device computes, by torch's profiler."""
    kind = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[kind]) as profiler:
        start = time.perf_counter()
        workload(images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in profiler.events() or ()
        if event.device_type.name == device.type.upper()
    ]
    return covered(spans) / 1e6 / seconds


def covered(spans: Iterable[Sequence[float]]) -> float:
    """Return the length of the union of the spans: simultaneous kernels count once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted((span[0], span[1]) for span in spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
