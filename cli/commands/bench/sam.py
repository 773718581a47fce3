"""`car bench sam`: SAM's automatic masks beside the official generator."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cli.commands.bench.display import measure_cases, number_table
from cli.commands.bench.options import (
    BenchDevice,
    DeviceOption,
    JsonOption,
    SizesOption,
    ThreadsOption,
    TurnsOption,
    parse_sizes,
    set_up_torch,
)
from cli.commands.bench.report import Report

if TYPE_CHECKING:
    from evaluation.speed.sam import SamCost

_NETWORKS = ("tiny", "vit_b", "vit_l", "vit_h")


def sam(
    context: typer.Context,
    *,
    network: Annotated[list[str] | None, typer.Option("--sam", help=f"{', '.join(_NETWORKS)}; repeatable.")] = None,
    size: SizesOption = None,
    points: Annotated[int, typer.Option(min=1, max=64, help="Side of the grid of points; SAM's default is 32.")] = 32,
    device: DeviceOption = BenchDevice.CPU,
    turns: TurnsOption = 1,
    threads: ThreadsOption = 1,
    json_file: JsonOption = None,
) -> None:
    """Compare SAM's automatic masks with the official generator: time by stage, counts, agreement of masks.

    Both have the same random weights. Each SAM is measured at each size; the default is vit_b and 512x384.
    """
    cases = [(one, wide, high) for one in network or ["vit_b"] for wide, high in parse_sizes(size or ["512x384"])]
    if unknown := {one for one, _, _ in cases} - set(_NETWORKS):
        raise typer.BadParameter(f"--sam {', '.join(sorted(unknown))}: choose from {', '.join(_NETWORKS)}")
    set_up_torch(device, threads)
    report = Report.start(context, json_file, device=device)
    from evaluation.speed.sam import measure_sam

    costs = measure_cases(
        {
            f"{one}, {width}x{height}": partial(measure_sam, one, width, height, points, device.value, turns)
            for one, width, height in cases
        }
    )
    console = Console(soft_wrap=True)
    for name, cost in costs.items():
        _print(console, name, cost)
    report.finish({"cases": {name: cost.to_json() for name, cost in costs.items()}})


def _print(console: Console, name: str, cost: "SamCost") -> None:
    figures, ours, official = cost.to_json(), cost.ours_s, cost.official_s
    table = number_table("", f"ours, {cost.unit}", f"official, {cost.unit}", title=f"{name}, {cost.precision}")
    for stage in dict.fromkeys([*ours, *official]):
        table.add_row(stage, *(f"{side[stage]:.4f}" if stage in side else "" for side in (ours, official)))
    table.add_row("total", f"{sum(ours.values()):.4f}", f"{sum(official.values()):.4f}", style="bold")
    table.add_section()
    for count, value in cost.counts["ours"].items():
        table.add_row(count.replace("_", " "), f"{value:,}", f"{cost.counts['official'][count]:,}")
    console.print(table)
    console.print(
        f"[bold]{figures['ratio_official']:.2f} times as fast[/bold] as the official generator; "
        f"{figures['time_by_floor']:.2f} times the floor of {cost.floor_s:.3g} s; "
        f"{1 / sum(ours.values()):.3g} images/{cost.unit}; {cost.matched_share:.2%} of the official masks are found at "
        "an IoU of 0.98"
    )
