"""`car bench sam`: automatic masks beside the official generator, by stage."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.bench.figures import each
from cli.bench.options import OnDevice, Sizes, Threads, Turns, Where, parse_sizes, prepare
from cli.bench.plot import Bar, PlotFile, draw
from cli.bench.record import CompareFile, FailAbove, JsonFile, Record

if TYPE_CHECKING:
    from evaluation.sam_cost import SamCost

_SAMS = ("tiny", "vit_b", "vit_l", "vit_h")


def sam(
    context: typer.Context,
    *,
    network: Annotated[list[str] | None, typer.Option("--sam", help=f"{', '.join(_SAMS)}; repeatable.")] = None,
    size: Sizes = None,
    points: Annotated[int, typer.Option(min=1, max=64, help="Of the grid's side; SAM's own is 32.")] = 32,
    device: OnDevice = Where.CPU,
    turns: Turns = 1,
    threads: Threads = 1,
    plot: PlotFile = None,
    json_file: JsonFile = None,
    compare: CompareFile = None,
    fail_above: FailAbove = None,
) -> None:
    """Compare SAM's automatic masks with those of the official generator: time by stage, counts, agreement.

    Both have the same random weights. Each SAM sees each size, vit_b and 512x384 if none is given.
    """
    asked = [(one, wide, high) for one in network or ["vit_b"] for wide, high in parse_sizes(size or ["512x384"])]
    if unknown := {one for one, _, _ in asked} - set(_SAMS):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: there are {', '.join(_SAMS)}")
    prepare(device, threads)
    names = [f"{one}, {wide}x{high}" for one, wide, high in asked]
    record = Record.begin(
        context, json_file, compare, fail_above, device=device, cases=names, spread=("network", "size")
    )
    from evaluation.sam_cost import measure_sam

    found = each(
        {name: partial(measure_sam, *one, points, device.value, turns) for name, one in zip(names, asked, strict=True)}
    )
    console = Console(soft_wrap=True)
    for name, cost in found.items():
        _show(console, name, cost)
    if plot is not None:
        draw(plot, [(name, _bars(cost)) for name, cost in found.items()], "seconds a picture")
    record.end({"cases": {name: cost.to_json() for name, cost in found.items()}})


def _show(console: Console, name: str, cost: "SamCost") -> None:
    figures = cost.to_json()
    table = Table("stage", f"ours, {cost.unit}", f"official, {cost.unit}", title=f"{name}, {cost.precision}")
    for column in table.columns[1:]:
        column.justify = "right"
    for stage in dict.fromkeys([*cost.ours_s, *cost.official_s]):
        table.add_row(
            stage, *(f"{side[stage]:.4f}" if stage in side else "" for side in (cost.ours_s, cost.official_s))
        )
    table.add_row("in all", f"{sum(cost.ours_s.values()):.4f}", f"{sum(cost.official_s.values()):.4f}", style="bold")
    console.print(table)
    counts = Table("counted", "ours", "official")
    for column in counts.columns[1:]:
        column.justify = "right"
    sides = [cost.counts.get(side, {}) for side in ("ours", "official")]
    for what in dict.fromkeys([*sides[0], *sides[1]]):
        counts.add_row(what, *(f"{side[what]:,}" if what in side else "" for side in sides))
    console.print(counts)
    console.print(
        f"[bold]{figures['ratio_official']:.2f} times less[/bold] than the official generator; "
        f"{figures['time_by_floor']:.2f} times the floor of {cost.floor_s:.3g} s, "
        f"{1 / sum(cost.ours_s.values()):.3g} pictures in one of these seconds; {cost.matched_share:.2%} of the "
        "official masks are ours too at an IoU of 0.98"
    )


def _bars(cost: "SamCost") -> list[Bar]:
    floors = {stage: flop / cost.gemm_tera_flop_per_s for stage, flop in cost.tera_flop.items()}
    return [Bar(stage, seconds, floors.get(stage)) for stage, seconds in cost.ours_s.items()]
