"""The process that `python -m benchmarks memory` measures: one image through the models, with the peak of each stage.

CLIP has random weights of full size. theta is 0, so every word survives every step: the worst case.
"""

import json
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch

from car.presets import preset
from car.vocabulary import Vocabulary
from evaluation.random_models import TINY_F, TINY_G, VIT_B16, VIT_L14, Shape, encoder
from evaluation.synthetic_images import tiled_image
from worker.segmenter import proposals
from worker.segmenter.clip import texts
from worker.segmenter.segmenter import Batches, Segmenter

_PROCESS = Path("/proc/self")
_RESET_PEAK = "5"


class Models(StrEnum):
    """The pair of CLIPs."""

    FULL = "full"
    """ViT-B/16 and ViT-L/14."""
    SHALLOW = "shallow"
    """Full width, but g and the text towers have two blocks: the same peaks without g's weights, and fast enough for a
    thousand words on a CPU."""
    TINY = "tiny"

    @property
    def shapes(self) -> tuple[Shape, Shape]:
        """The shapes of f and of g."""
        if self is Models.TINY:
            return TINY_F, TINY_G
        if self is Models.SHALLOW:
            return replace(VIT_B16, text_depth=2), replace(VIT_L14, depth=2, text_depth=2)
        return VIT_B16, VIT_L14


class _Peaks:
    """Peaks of this process by stage, in bytes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.rss: dict[str, int] = {}
        self.cuda: dict[str, int] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        reset_peak()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        yield
        self.rss[name] = peak_rss()
        if self._device.type == "cuda":
            self.cuda[name] = torch.cuda.max_memory_allocated(self._device)


def reset_peak() -> None:
    """Reset the peak on Linux; elsewhere the peak stays that of the whole process."""
    if (_PROCESS / "clear_refs").exists():
        (_PROCESS / "clear_refs").write_text(_RESET_PEAK)


def peak_rss() -> int:
    """Return the highest resident memory since `reset_peak`, in bytes: VmHWM, or ru_maxrss, which is inherited."""
    if (_PROCESS / "status").exists():
        peak = re.search(r"VmHWM:\s+(\d+) kB", (_PROCESS / "status").read_text())
        if peak is not None:
            return int(peak[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _measure(width: int, height: int, words: int, models: str, device: str, finish: bool) -> dict[str, Any]:
    torch_device = torch.device(device)
    idle, peaks = peak_rss(), _Peaks(torch_device)
    recipe = replace(preset("voc"), theta=0.0)
    vocabulary = Vocabulary.from_words([f"word {number}" for number in range(words)])
    image = tiled_image(height, width)
    with peaks.stage("models"):
        f, g = (encoder(shape, seed=seed, device=torch_device) for seed, shape in enumerate(Models(models).shapes))
    with peaks.stage("texts"):
        texts.embed(f, g, vocabulary, recipe)
    with peaks.stage("encode"):
        proposals.encode(f, [image], recipe, batch_size=Batches.for_device(torch_device).images)
    with peaks.stage("recurrence"):
        [pending] = Segmenter(f, g).recur([image], vocabulary, recipe)
    if finish:
        with peaks.stage("finishing"):
            pending.finish()
    return {"idle_rss": idle, "peak_rss": peaks.rss, "peak_cuda": peaks.cuda or None}


if __name__ == "__main__":
    print(json.dumps(_measure(*json.loads(sys.argv[1]))))  # noqa: T201 - read by the parent process
