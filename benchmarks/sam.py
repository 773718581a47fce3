"""`python -m benchmarks sam`: SAM's automatic masks by stage, ours and the official generator's, with their floor."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import typer
from rich.console import Console

from benchmarks.official_masks import OfficialMasks
from benchmarks.roofline import measure_flop_rate
from benchmarks.sam_flop import tera_flop
from car.recipe import Recipe
from cli.commands.bench import options
from cli.commands.bench.display import measure_cases, number_table
from cli.commands.bench.report import Report
from cli.commands.bench.sam import NetworksOption, PointsOption, parse_cases
from evaluation import random_models
from evaluation.metrics import mask_iou
from evaluation.random_models import SAM_SIZES, sam_recipe
from evaluation.stopwatch import Stopwatch, clock_of
from evaluation.synthetic_images import tiled_image
from worker.segmenter.resizing import Image
from worker.segmenter.sam.automatic_masks import AutomaticMasks
from worker.segmenter.sam.ensembling import Regions, ensemble

_MATCH_IOU = 0.98
_LABELS = 6
"""Masks of labels that are ensembled."""


@dataclass(frozen=True, kw_only=True)
class SamCost:
    """Figures of one image. Stages are encode, decode, postprocess, nms and ensemble, in seconds; see `unit`."""

    sizes: str
    width: int
    height: int
    points_per_side: int
    device: str
    """Its name."""
    precision: str
    """Of our patches; the official generator is float32."""
    turns: int
    threads: int
    unit: str
    """"CPU s" of this process on a CPU, "s" of wall time on CUDA."""
    ours_s: Mapping[str, float]
    official_s: Mapping[str, float]
    """Without "ensemble", which only ours has."""
    counts: Mapping[str, Mapping[str, int]]
    """Calls, masks and bytes of `ours` and `official`."""
    tera_flop: Mapping[str, float]
    """Of matrices, two a multiply-add: "encode" and "decode" are ours for this image, "official_encode" and
    "official_decode" the package's.
    """
    gemm_tera_flop_per_s: float
    """Of large square matrices on this device in this precision, measured in the same run."""
    matched_share: float
    """Share of the official generator's masks that match one of ours at an IoU of 0.98."""

    @property
    def floor_s(self) -> float:
        """The arithmetic at the measured rate."""
        return (self.tera_flop["encode"] + self.tera_flop["decode"]) / self.gemm_tera_flop_per_s

    def to_json(self) -> dict[str, Any]:
        """Return all figures, ratios first; the ratios leave out the ensembling, which only ours has."""
        total = sum(self.ours_s.values()) - self.ours_s["ensemble"]
        ratios = {"ratio_official": sum(self.official_s.values()) / total, "floor_s": self.floor_s}
        return ratios | {"time_by_floor": total / self.floor_s} | asdict(self)


def sam(
    context: typer.Context,
    *,
    network: NetworksOption = None,
    size: options.SizesOption = None,
    points: PointsOption = 32,
    device: options.DeviceOption = options.BenchDevice.CPU,
    turns: options.TurnsOption = 1,
    threads: options.ThreadsOption = 1,
    json_file: options.JsonOption = None,
) -> None:
    """Compare SAM's automatic masks with the official generator: time by stage, counts, agreement of masks.

    Both have the same random weights. Each SAM is measured at each size; the default is vit_b and 512x384.
    """
    settings = parse_cases(network, size)
    options.set_up_torch(device, threads)
    report = Report.start(context, json_file, device=device)
    costs = measure_cases(
        {name: partial(measure_sam, *case, points, device.value, turns) for name, case in settings.items()}
    )
    console = Console(soft_wrap=True)
    for name, cost in costs.items():
        _print(console, name, cost)
    report.finish({"cases": {name: cost.to_json() for name, cost in costs.items()}})


def measure_sam(sizes: str, width: int, height: int, points_per_side: int, device: str, turns: int) -> SamCost:
    """Measure ours and the official generator in alternation; the least of each stage counts. `sizes` is tiny, vit_b,
    vit_l or vit_h; the larger ones take minutes to hours on a CPU unless the points are few.

    Raises:
        ValueError: unknown sizes, or nothing to measure.

    """
    if sizes not in SAM_SIZES or min(width, height, points_per_side, turns) < 1:
        raise ValueError(f"{sizes!r} is none of {', '.join(SAM_SIZES)}, or there is nothing to measure")
    torch_device = torch.device(device)
    image, clock = tiled_image(height, width), clock_of(torch_device)
    watch, official_watch = Stopwatch(clock), Stopwatch(clock)
    # Ours may change a network's precision, so each side has its own copy of the same weights.
    masks = AutomaticMasks.for_network(random_models.sam(SAM_SIZES[sizes], torch_device))
    recipe = sam_recipe(masks, image, points_per_side)
    masks = AutomaticMasks(masks.network, masks.point_batch_size, cache_size=0, stage_timer=watch.stage)
    official = OfficialMasks(random_models.sam(SAM_SIZES[sizes], torch_device), recipe, official_watch)
    regions: Regions = ()
    records: list[dict[str, Any]] = []
    for _ in range(turns):
        regions = masks(image, recipe)
        _ensemble(regions, image, recipe, watch)
        watch.end_turn()
        records = official.generate(image)
        official_watch.end_turn()
    dtype = masks.network.image_encoder.patch_embed.proj.weight.dtype
    return SamCost(
        sizes=sizes,
        width=width,
        height=height,
        points_per_side=points_per_side,
        device=torch.cuda.get_device_name(torch_device) if torch_device.type == "cuda" else "cpu",
        precision=str(dtype).removeprefix("torch."),
        turns=turns,
        threads=torch.get_num_threads(),
        unit="s" if torch_device.type == "cuda" else "CPU s",
        ours_s=watch.least,
        official_s=official_watch.least,
        counts={"ours": _counts(official, regions), "official": official.counts(records, image)},
        tera_flop=tera_flop(SAM_SIZES[sizes], (height, width), points_per_side**2, official.good_points),
        gemm_tera_flop_per_s=measure_flop_rate(torch_device, dtype) / 1e12,
        matched_share=_matched_share(regions, records, image),
    )


def _counts(official: OfficialMasks, regions: Regions) -> dict[str, int]:
    """Ours decodes only points that have a mask of sufficient quality, and enlarges only those masks."""
    return {
        "encoder_forwards": 1,
        "prompts": official.masks // 3,
        "points_decoded": official.good_points,
        "masks_enlarged": official.good_masks,
        "regions": len(regions),
        "bytes_of_regions": sum(len(region.bits) for region in regions),
    }


def _ensemble(regions: Regions, image: Image, recipe: Recipe, watch: Stopwatch) -> None:
    """Ensemble SAM's regions with masks of labels: vertical bars of the image stand in for the CRF's."""
    masks = np.zeros((_LABELS, *image.shape[:2]), bool)
    for k, columns in enumerate(np.array_split(np.arange(image.shape[1]), _LABELS)):
        masks[k][:, columns] = True
    with watch.stage("ensemble"):
        ensemble(masks, regions, recipe)


def _matched_share(regions: Regions, records: list[dict[str, Any]], image: Image) -> float:
    remaining, matched = [region.to_mask(image.shape[:2]) for region in regions], 0
    for record in records:
        ious = [mask_iou(mask, record["segmentation"]) for mask in remaining]
        if ious and max(ious) >= _MATCH_IOU:
            matched += 1
            remaining.pop(int(np.argmax(ious)))
    return matched / max(1, len(records))


def _print(console: Console, name: str, cost: SamCost) -> None:
    figures, stages, official = cost.to_json(), cost.ours_s, cost.official_s
    table = number_table("", f"ours, {cost.unit}", f"official, {cost.unit}", title=f"{name}, {cost.precision}")
    for stage in dict.fromkeys([*stages, *official]):
        table.add_row(stage, *(f"{side[stage]:.4f}" if stage in side else "" for side in (stages, official)))
    table.add_row("total", f"{sum(stages.values()):.4f}", f"{sum(official.values()):.4f}", style="bold")
    table.add_section()
    for count, value in cost.counts["ours"].items():
        table.add_row(count.replace("_", " "), f"{value:,}", f"{cost.counts['official'][count]:,}")
    console.print(table)
    console.print(
        f"[bold]{figures['ratio_official']:.2f} times as fast[/bold] as the official generator; "
        f"{figures['time_by_floor']:.2f} times the floor of {cost.floor_s:.3g} s; "
        f"{1 / sum(stages.values()):.3g} images/{cost.unit}; {cost.matched_share:.2%} of the official masks are "
        "matched at an IoU of 0.98"
    )
