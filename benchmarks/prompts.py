"""`python -m benchmarks prompts`: drawing and resizing an image's visual prompts, the reference beside the fast path.

Both sides make the same crops to the bit and are timed in alternation; the least of the turns counts.
"""

import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
import typer
from jaxtyping import Bool, Float
from rich.console import Console

from car.presets import apply_settings, preset
from car.recipe import Recipe
from cli.commands.bench.display import number_table
from cli.commands.bench.options import (
    BenchDevice,
    DeviceOption,
    JsonOption,
    SizesOption,
    TurnsOption,
    parse_sizes,
    set_up_torch,
)
from cli.commands.bench.report import Report
from evaluation.stopwatch import Stopwatch, clock_of
from worker.segmenter import classifier
from worker.segmenter.classifier import Crops
from worker.segmenter.clip.encoder import Encoder
from worker.segmenter.prompts import visual_prompts
from worker.segmenter.prompts.prompted_crops import make_prompter
from worker.segmenter.proposals import MULTIPLE
from worker.segmenter.resizing import Image, enlarge

Cams = list[Float[np.ndarray, "rows columns"]]

_CROP_SIZE = 224
"""That of CLIP ViT-L/14, if no g is given."""
_FORWARD_CROPS = 4
_SIZES = ("512x384", "500x375")
_WORDS = (10, 20)
_STYLES = ("blur+circle", "blur+gray", "contour")


@dataclass(frozen=True)
class PromptsCost:
    """Figures of one image: all words of one step."""

    width: int
    height: int
    words: int
    device: str
    prompts: tuple[str, ...]
    box_share: float
    """Mean share of the image inside the masks' bounding boxes."""
    reference_s: float
    """A full-size copy per word, drawn with OpenCV, shrunk with Pillow and sent to the device."""
    ours_s: float
    """The fast path of this device. CPU seconds of this process on a CPU, wall seconds of finished work on CUDA."""
    masks_s: float
    """CAMs enlarged and compared with eta on the host; part of both sides."""
    forward_crop_s: float | None
    """g's forward pass of one crop in a batch of four, if g is given."""
    crops: int
    crop_bytes: int
    """Input of g."""
    reference_peak_bytes: int
    """Peak of numpy's arrays on the host, crops included."""
    ours_peak_bytes: int

    @property
    def ratio(self) -> float:
        return self.reference_s / self.ours_s

    def to_json(self) -> dict[str, Any]:
        """Return all figures and the ratio of both sides."""
        return asdict(self) | {"ratio": self.ratio}


def prompts(
    context: typer.Context,
    *,
    size: SizesOption = None,
    device: DeviceOption = BenchDevice.CPU,
    turns: TurnsOption = 5,
    json_file: JsonOption = None,
) -> None:
    """Compare drawing and resizing of visual prompts with the reference, for 10 and 20 words and three styles."""
    set_up_torch(device, 1)
    report = Report.start(context, json_file, device=device)
    table = number_table("ms an image", "reference", "ours", "ratio", "masks", "boxes")
    cases = {}
    for width, height in parse_sizes(size or _SIZES):
        for words, style in product(_WORDS, _STYLES):
            recipe = apply_settings(preset("voc"), {"visual_prompts": style})
            cost = measure_prompts(width, height, words, torch.device(device.value), turns, recipe=recipe)
            name = f"{width}x{height}, {words} words, {style}"
            cases[name] = cost.to_json()
            times = (f"{1e3 * seconds:.1f}" for seconds in (cost.reference_s, cost.ours_s))
            table.add_row(name, *times, f"{cost.ratio:.1f}", f"{1e3 * cost.masks_s:.1f}", f"{cost.box_share:.0%}")
    Console(soft_wrap=True).print(table)
    report.finish({"cases": cases})


def measure_prompts(
    width: int,
    height: int,
    words: int,
    device: torch.device,
    turns: int,
    *,
    recipe: Recipe | None = None,
    g: Encoder | None = None,
) -> PromptsCost:
    """Measure an image of noise and CAMs of one soft spot each, of which one in ten fills the image.

    Raises:
        RuntimeError: the sides made different crops.

    """
    recipe, size = recipe or preset("voc"), g.image_size if g else _CROP_SIZE
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    grid = (-(-height // MULTIPLE), -(-width // MULTIPLE))
    cams = [_spot(random, grid, wide=k % 10 == 0) for k in range(words)]
    sides: dict[str, Callable[[], Crops]] = {
        "reference": lambda: _reference(image, cams, recipe, size).to(device),
        "ours": lambda: _fast_prompts(image, cams, recipe, size, device),
    }
    (reference, reference_peak), (fast, fast_peak) = (_with_peak(side) for side in sides.values())
    if not reference.equal(fast):
        raise RuntimeError("the fast path drew other pixels than the reference")
    watch = Stopwatch(clock_of(device))
    for _ in range(turns):
        for name, side in sides.items():
            with watch.stage(name):
                side()
        with watch.stage("masks"):
            masks = [enlarge(cam, height, width) > recipe.eta for cam in cams]
        if g is not None:
            with watch.stage("forward"):
                crops = reference[:_FORWARD_CROPS]
                classifier.encode(g, crops, recipe, batch_size=_FORWARD_CROPS, padded=False)
        watch.end_turn()
    return PromptsCost(
        width=width,
        height=height,
        words=words,
        device=_name(device),
        prompts=tuple(recipe.visual_prompts),
        box_share=float(np.mean([_box_share(mask) for mask in masks])),
        reference_s=watch.least["reference"],
        ours_s=watch.least["ours"],
        masks_s=watch.least["masks"],
        forward_crop_s=None if g is None else watch.least["forward"] / min(words, _FORWARD_CROPS),
        crops=words,
        crop_bytes=reference.numel(),
        reference_peak_bytes=reference_peak,
        ours_peak_bytes=fast_peak,
    )


def _reference(image: Image, cams: Cams, recipe: Recipe, size: int) -> Crops:
    behind = visual_prompts.prepare(image, recipe.visual_prompts, recipe)
    masks = (enlarge(cam, *image.shape[:2]) > recipe.eta for cam in cams)
    return torch.from_numpy(
        np.stack([classifier.crop(visual_prompts.apply_prompts(behind, mask), size) for mask in masks])
    )


def _fast_prompts(image: Image, cams: Cams, recipe: Recipe, size: int, device: torch.device) -> Crops:
    behind = visual_prompts.prepare(image, recipe.visual_prompts, recipe)
    masks = [np.packbits(enlarge(cam, *image.shape[:2]) > recipe.eta) for cam in cams]
    return make_prompter(behind, size, device)(masks)


def _spot(random: np.random.Generator, grid: tuple[int, int], *, wide: bool) -> Float[np.ndarray, "rows columns"]:
    """Return a CAM of one soft spot, a tenth to a quarter as wide as the image, or wider than it."""
    rows, columns = np.mgrid[: grid[0], : grid[1]]
    y, x = random.uniform(0, grid[0]), random.uniform(0, grid[1])
    deviation = grid[1] * (2.0 if wide else random.uniform(0.1, 0.25))
    spot: Float[np.ndarray, "rows columns"] = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * deviation**2))
    return spot.astype(np.float32)


def _box_share(mask: Bool[np.ndarray, "h w"]) -> float:
    return float(mask.any(0).sum() * mask.any(1).sum()) / mask.size


def _with_peak(side: Callable[[], Crops]) -> tuple[Crops, int]:
    """Return the crops of a side and the peak of numpy's memory meanwhile."""
    tracemalloc.start()
    try:
        return side(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
