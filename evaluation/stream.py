"""Pictures one after the other: how many a second, how busy the device was, and the most memory it took.

How busy is asked of torch's profiler in a run of its own, since watching takes time: the share of the run in which at
least one kernel was on the device. On a CPU it is the share of the threads' time in which they computed.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Work = Callable[[int], object]
"""Does so many pictures, from pixels to coded masks."""


@dataclass(frozen=True)
class Stream:
    images: int
    seconds: float
    """Of the clock on the wall."""
    busy_share: float
    peak_memory: int | None
    """Bytes of the device's memory, models and all; none on a CPU (`car bench memory` measures there)."""

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds

    def to_json(self) -> dict[str, Any]:
        return {"images_per_s": self.images_per_s} | asdict(self)


def measure_stream(work: Work, images: int, device: torch.device, *, warm_up: int) -> Stream:
    """`warm_up` pictures first, then `images` by the clock, and on CUDA `images` once more under the profiler."""
    work(warm_up)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    begun, computed = time.perf_counter(), time.process_time()
    work(images)
    if cuda:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - begun
    if not cuda:
        busy = (time.process_time() - computed) / (seconds * torch.get_num_threads())
        return Stream(images, seconds, min(1.0, busy), None)
    return Stream(images, seconds, busy_share(work, images, device), torch.cuda.max_memory_allocated(device))


def busy_share(work: Work, images: int, device: torch.device) -> float:
    """The share of the time in which something runs on the device, as torch's profiler sees it."""
    kind = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[kind]) as watched:
        begun = time.perf_counter()
        work(images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - begun
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in watched.events() or ()
        if event.device_type.name == device.type.upper()
    ]
    return covered(spans) / 1e6 / seconds


def covered(spans: Iterable[Sequence[float]]) -> float:
    """The length of the union: kernels of two streams at once count once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted((span[0], span[1]) for span in spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
