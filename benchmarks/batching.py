"""`python -m benchmarks batching`: how full the batches are with continuous batching, beside static groups.

The baseline is static batching: up to `Batches.images` images of one size start together, the crops of each round go
through the classifier, and the next group starts when the last image is done. A padded batch always costs the same, so
the ratio of batches is the ratio of the models' time.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from car.presets import preset
from car.recipe import Recipe
from car.vocabulary import Vocabulary
from cli.commands.bench.display import number_table
from cli.commands.bench.options import (
    BenchDevice,
    DeviceOption,
    JsonOption,
    ThreadsOption,
    TurnsOption,
    set_up_torch,
)
from cli.commands.bench.report import Report
from cli.model_selection import DEMO, ModelSelection, load
from cli.options import Device
from demo.scenes import WORDS, held_out_scenes
from evaluation.stopwatch import Stopwatch
from worker.segmenter.batch_scheduler import BatchStats
from worker.segmenter.classifier import Crops
from worker.segmenter.postprocess import PendingSegmentation
from worker.segmenter.requests import SegmentRequest, StartedRequest
from worker.segmenter.resizing import Image
from worker.segmenter.segmenter import Batches, Segmenter

SHARED = Batches(images=8, crops=64)
"""A GPU's batches."""
_SIZES = ((160, 160), (160, 160), (192, 128))
"""Of consecutive scenes: f takes no batch of two sizes."""


@dataclass(frozen=True)
class Side:
    """Figures of one way of batching."""

    f_batches: int
    f_filled: float
    """Share of the slots of f's batches that held an image."""
    g_batches: int
    g_filled: float
    cpu_s: float


@dataclass(frozen=True)
class BatchingCost:
    """Both ways of batching over the same images."""

    images: int
    sizes: int
    """Distinct input sizes of f."""
    crops: int
    static: Side
    continuous: Side
    max_running: int
    """Images in progress at a time under continuous batching."""
    same_words: int
    """Images with the same surviving words both ways: the position in a batch may change the last digits of a score."""

    def to_json(self) -> dict[str, Any]:
        """Return all figures, ratios first."""
        return {
            "ratio_g_batches": self.static.g_batches / self.continuous.g_batches,
            "ratio_f_batches": self.static.f_batches / self.continuous.f_batches,
            "ratio_cpu_s": self.static.cpu_s / self.continuous.cpu_s,
            **asdict(self),
        }


def batching(
    context: typer.Context,
    *,
    images: Annotated[int, typer.Option(min=2, help="Number of scenes, of two sizes.")] = 48,
    device: DeviceOption = BenchDevice.CPU,
    turns: TurnsOption = 1,
    threads: ThreadsOption = 1,
    json_file: JsonOption = None,
) -> None:
    """Compare continuous batching with static groups: number of batches, how full they are, CPU time.

    The demo's models segment its scenes, in batches of a GPU's shape on any device.
    """
    set_up_torch(device, threads)
    report = Report.start(context, json_file, device=device)
    with Console(stderr=True).status("segmenting scenes"):
        cost = _measure_demo(images, device, turns)
    figures, console = cost.to_json(), Console(soft_wrap=True)
    console.print(_table(cost))
    console.print(
        f"[bold]{figures['ratio_g_batches']:.2f} times fewer batches of g[/bold], {figures['ratio_f_batches']:.2f} of "
        f"f; the same words in {cost.same_words} of {cost.images} images; at most {cost.max_running} images in progress"
    )
    report.finish(figures)


def _measure_demo(images: int, device: BenchDevice, turns: int) -> BatchingCost:
    recipe = preset("demo")
    pair = load(ModelSelection(DEMO), recipe, Device(device.value))
    scenes = [held_out_scenes(-(-images // len(_SIZES)), seed=seed, size=size) for seed, size in enumerate(_SIZES)]
    mixed = [scene.image for row in zip(*scenes, strict=True) for scene in row][:images]
    return measure_batching(
        Segmenter(pair.proposal, pair.classifier), mixed, Vocabulary.from_words(WORDS), recipe, turns=turns
    )


def _table(cost: BatchingCost) -> Table:
    table = number_table("", "static", "continuous", title=f"{cost.images} scenes, {cost.crops} crops")
    static, continuous = asdict(cost.static), asdict(cost.continuous)
    for name in static:
        pattern = "{:.0%}" if name.endswith("filled") else "{:,.4g}"
        table.add_row(name.replace("_", " "), pattern.format(static[name]), pattern.format(continuous[name]))
    return table


def measure_batching(
    segmenter: Segmenter,
    images: Sequence[Image],
    vocabulary: Vocabulary,
    recipe: Recipe,
    *,
    turns: int = 1,
    batches: Batches = SHARED,
    max_running: int = 0,
) -> BatchingCost:
    """Count batches and CPU seconds in alternation; the least of the turns counts. `max_running` 0: the default."""
    segmenter = replace(segmenter, batches=batches, clock=None)
    requests = [SegmentRequest(index, image, vocabulary, recipe) for index, image in enumerate(images)]
    watch = Stopwatch(time.process_time)
    results: dict[str, dict[int, PendingSegmentation]] = {}
    stats: dict[str, BatchStats] = {}
    sides: dict[str, Callable[[], tuple[dict[int, PendingSegmentation], BatchStats]]] = {
        "static": lambda: _run_static(segmenter, requests, batches),
        "continuous": lambda: _run_continuous(segmenter, requests, max_running),
    }
    for _ in range(turns):
        for name, side in sides.items():
            with watch.stage(name):
                results[name], stats[name] = side()
        watch.end_turn()
    return BatchingCost(
        images=len(requests),
        sizes=len({segmenter.kind(request) for request in requests}),
        crops=stats["continuous"].g_crops,
        static=_side(stats["static"], batches, watch.least["static"]),
        continuous=_side(stats["continuous"], batches, watch.least["continuous"]),
        max_running=max_running or batches.images + batches.crops,
        same_words=sum(
            results["static"][request.key].order == results["continuous"][request.key].order for request in requests
        ),
    )


def _side(stats: BatchStats, batches: Batches, seconds: float) -> Side:
    return Side(
        f_batches=stats.f_batches,
        f_filled=stats.f_images / (stats.f_batches * batches.images),
        g_batches=stats.g_batches,
        g_filled=stats.g_crops / max(1, stats.g_batches * batches.crops),
        cpu_s=seconds,
    )


def _run_continuous(
    segmenter: Segmenter, requests: Sequence[SegmentRequest], max_running: int
) -> tuple[dict[int, PendingSegmentation], BatchStats]:
    scheduler = segmenter.scheduler(capacity=max_running)
    results = {}
    for key, outcome in scheduler.run(requests):
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is not None:
            results[key] = outcome
    return results, scheduler.stats


def _run_static(
    segmenter: Segmenter, requests: Sequence[SegmentRequest], batches: Batches
) -> tuple[dict[int, PendingSegmentation], BatchStats]:
    kinds: dict[Any, list[SegmentRequest]] = defaultdict(list)
    for request in requests:
        kinds[segmenter.kind(request)].append(request)
    results: dict[int, PendingSegmentation] = {}
    stats = BatchStats()
    for same_kind in kinds.values():
        for start in range(0, len(same_kind), batches.images):
            group = same_kind[start : start + batches.images]
            stats.f_batches += 1
            stats.f_images += len(group)
            started = segmenter.begin(group, batch_size=batches.images)
            keys = [request.key for request in group]
            results |= _run_group(dict(zip(keys, started, strict=True)), batches, stats)
    return results, stats


def _run_group(
    started: dict[int, StartedRequest[PendingSegmentation]], batches: Batches, stats: BatchStats
) -> dict[int, PendingSegmentation]:
    """Run the recurrences of a group in rounds: each waits for all others."""
    results: dict[int, PendingSegmentation] = {}
    answers: dict[int, torch.Tensor | None] = dict.fromkeys(started)
    while answers:
        requested: dict[int, Crops] = {}
        for key, answer in answers.items():
            steps = started[key].recurrence
            try:
                requested[key] = next(steps) if answer is None else steps.send(answer)
            except StopIteration as stop:
                results[key] = stop.value
        if not requested:
            break
        crops, encoder = torch.cat(list(requested.values())), started[next(iter(requested))].encoder
        if encoder is None:
            raise RuntimeError("a group has crops and no encoder")
        stats.g_batches += -(-len(crops) // batches.crops)
        stats.g_crops += len(crops)
        embeddings = encoder.encode(crops, batch_size=batches.crops, padded=True)
        parts = torch.split(embeddings, [len(image_crops) for image_crops in requested.values()])
        answers = dict(zip(requested, parts, strict=True))
    return results
