"""`car bench sam`: SAM's automatic masks beside the official generator."""

from functools import partial
from typing import Annotated

import typer

from cli.commands.bench import options
from cli.commands.bench.display import Case, run_cases
from cli.commands.bench.report import Report

_NETWORKS = ("tiny", "vit_b", "vit_l", "vit_h")

NetworksOption = Annotated[list[str] | None, typer.Option("--sam", help=f"{', '.join(_NETWORKS)}; repeatable.")]
PointsOption = Annotated[int, typer.Option(min=1, max=64, help="Side of the grid of points; SAM's default is 32.")]


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
    """Measure the time of SAM's automatic masks by stage, beside the official generator.

    Both have the same random weights. Each SAM is measured at each size; the default is vit_b and 512x384.
    """
    settings = parse_cases(network, size)
    options.set_up_torch(device, threads)
    report = Report.start(context, json_file, device=device)
    measures = {name: partial(_measure, *case, points, device, turns) for name, case in settings.items()}
    report.finish(run_cases(measures, "official", device))


def parse_cases(networks: list[str] | None, sizes: list[str] | None) -> dict[str, tuple[str, int, int]]:
    """Return network, width and height of each case by its name. Raises: typer.BadParameter."""
    if unknown := set(networks or ()) - set(_NETWORKS):
        raise typer.BadParameter(f"--sam {', '.join(sorted(unknown))}: choose from {', '.join(_NETWORKS)}")
    return {
        f"{network}, {width}x{height}": (network, width, height)
        for network in networks or ["vit_b"]
        for width, height in options.parse_sizes(sizes or ["512x384"])
    }


def _measure(network: str, width: int, height: int, points: int, device: str, turns: int) -> Case:
    import torch
    from segment_anything import SamAutomaticMaskGenerator

    from evaluation.random_models import SAM_SIZES, sam, sam_recipe
    from evaluation.stopwatch import Stopwatch, clock_of
    from evaluation.synthetic_images import tiled_image
    from worker.segmenter.sam.automatic_masks import AutomaticMasks

    image, clock = tiled_image(height, width), clock_of(torch.device(device))
    watch, official_watch = Stopwatch(clock), Stopwatch(clock)
    # Ours may change a network's precision, so each side has its own copy of the same weights.
    masks = AutomaticMasks.for_network(sam(SAM_SIZES[network], device))
    recipe = sam_recipe(masks, image, points)
    masks = AutomaticMasks(masks.network, masks.point_batch_size, cache_size=0, stage_timer=watch.stage)
    official = SamAutomaticMaskGenerator(
        sam(SAM_SIZES[network], device),
        points_per_side=points,
        pred_iou_thresh=recipe.sam_pred_iou,
        stability_score_thresh=recipe.sam_stability,
        box_nms_thresh=recipe.sam_box_nms,
    )
    for _ in range(turns):
        masks(image, recipe)
        watch.end_turn()
        with official_watch.stage("total"):
            official.generate(image)
        official_watch.end_turn()
    total = official_watch.least["total"]
    ratio = total / sum(watch.least.values())
    return Case(watch.least, total, {"ratio_official": ratio, "ours_s": watch.least, "official_s": {"total": total}})
