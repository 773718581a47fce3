"""How much memory one picture takes: peaks by stage, each measured in a process of its own that did nothing before.

Full-size architectures with random weights stand in for CLIP, as in evaluation.segmenter_speed. theta is 0, so that
every word survives every step: the worst case, which trained models seldom come near.
"""

import json
import re
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch

from car.presets import preset
from car.vocabulary import Vocabulary
from evaluation.random_models import TINY_F, TINY_G, VIT_B16, VIT_L14, Shape, encoder
from evaluation.segmenter_speed import picture
from worker.segmenter import proposals, texts
from worker.segmenter.segmenter import Batches, Segmenter

_PROCESS = Path("/proc/self")
_RESET_PEAK = "5"


class Models(StrEnum):
    """Which pair of CLIPs looks at the picture."""

    FULL = "full"
    """ViT-B/16 and ViT-L/14."""
    SHALLOW = "shallow"
    """The same, but g and the text towers have two blocks: as wide, so the same peaks but for g's weights, and quick
    enough for a thousand words on a CPU."""
    TINY = "tiny"

    @property
    def shapes(self) -> tuple[Shape, Shape]:
        """Of f and of g."""
        if self is Models.TINY:
            return TINY_F, TINY_G
        if self is Models.SHALLOW:
            return replace(VIT_B16, text_depth=2), replace(VIT_L14, depth=2, text_depth=2)
        return VIT_B16, VIT_L14


@dataclass(frozen=True, kw_only=True)
class MemoryCost:
    """Bytes. A stage's peak is that of the whole process while the stage ran, weights and all."""

    width: int
    height: int
    words: int
    models: Models
    device: str
    idle_rss: int
    """Before anything is loaded: Python and its libraries."""
    peak_rss: Mapping[str, int]
    """By stage: models, texts, encode (f), recurrence, finishing (CRF and coding)."""
    peak_cuda: Mapping[str, int] | None = None
    """torch.cuda.max_memory_allocated by stage; none on a CPU."""

    @property
    def highest_rss(self) -> int:
        return max(self.peak_rss.values())

    def to_json(self) -> dict[str, Any]:
        """All figures, the highest first."""
        return {"highest_rss": self.highest_rss} | asdict(self)


def measure_memory(
    width: int,
    height: int,
    words: int,
    models: Models = Models.FULL,
    device: str = "cpu",
    *,
    finish: bool = True,
) -> MemoryCost:
    """One picture of that size and a vocabulary of that many words, all of which survive, in a fresh process.

    `finish` False leaves out the CRF and the coding of masks.

    Raises:
        subprocess.CalledProcessError: the process did not come to its end, for want of memory say.

    """
    question = json.dumps([width, height, words, models, device, finish])
    command = [sys.executable, "-m", "evaluation.memory_cost", question]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own module
    found = json.loads(answer.stdout.splitlines()[-1])
    return MemoryCost(width=width, height=height, words=words, models=models, device=device, **found)


class _Peaks:
    """Peaks of this process by stage."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.rss: dict[str, int] = {}
        self.cuda: dict[str, int] = {}

    @contextmanager
    def over(self, stage: str) -> Iterator[None]:
        reset_peak()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        yield
        self.rss[stage] = peak_rss()
        if self._device.type == "cuda":
            self.cuda[stage] = torch.cuda.max_memory_allocated(self._device)


def reset_peak() -> None:
    """Let the peak begin anew, where the system can (Linux); elsewhere it is the peak since the process began."""
    if (_PROCESS / "clear_refs").exists():
        (_PROCESS / "clear_refs").write_text(_RESET_PEAK)


def peak_rss() -> int:
    """Bytes of this process's highest resident memory since `reset_peak`.

    Not ru_maxrss where it can be helped: a process inherits that from the one that started it.
    """
    if (_PROCESS / "status").exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", (_PROCESS / "status").read_text())
        if found is not None:
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _measured(width: int, height: int, words: int, models: str, device: str, finish: bool) -> dict[str, Any]:
    where = torch.device(device)
    idle, peaks = peak_rss(), _Peaks(where)
    recipe = replace(preset("voc"), theta=0.0)
    vocabulary = Vocabulary.of([f"word {number}" for number in range(words)])
    image = picture(height, width)
    with peaks.over("models"):
        f, g = (encoder(shape, seed=seed, device=where) for seed, shape in enumerate(Models(models).shapes))
    with peaks.over("texts"):
        texts.embed(f, g, vocabulary, recipe)
    with peaks.over("encode"):
        proposals.encode(f, [image], recipe, at_once=Batches.suited_to(where).images)
    with peaks.over("recurrence"):
        [unfinished] = Segmenter(f, g).recur([image], vocabulary, recipe)
    if finish:
        with peaks.over("finishing"):
            unfinished.finish()
    return {"idle_rss": idle, "peak_rss": peaks.rss, "peak_cuda": peaks.cuda or None}


if __name__ == "__main__":
    print(json.dumps(_measured(*json.loads(sys.argv[1]))))  # noqa: T201 - the answer
