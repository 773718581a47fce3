"""`car bench segmenter`: a picture's cost beside the official scheme of work."""

import re
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from car.precision import Precision
from cli.bench.record import CompareFile, FailAbove, JsonFile, Record

if TYPE_CHECKING:
    from evaluation.segmenter_cost import Comparison, Setting


def segmenter(
    context: typer.Context,
    *,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the picture.")] = "512x384",
    queries: Annotated[int, typer.Option(min=1, max=20)] = 10,
    survivors: Annotated[int, typer.Option(min=1, max=20, help="Queries that step 1 keeps.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Most steps of the recurrence.")] = 2,
    turns: Annotated[int, typer.Option(min=1, help="Measure so often, turn about; the least counts.")] = 2,
    threads: Annotated[int, typer.Option(min=1, help="More than 1 counts waiting threads as CPU time.")] = 1,
    precision: Annotated[
        Precision, typer.Option("--precision", help="Of our g; the official scheme computes in float32.")
    ] = Precision.AUTO,
    full: Annotated[bool, typer.Option("--full", help="Run the official scheme to its end.")] = False,
    json_file: JsonFile = None,
    compare: CompareFile = None,
    fail_above: FailAbove = None,
) -> None:
    """Compare CPU seconds a picture with per-query autograd and with the official code's scheme of work."""
    import torch

    from evaluation.segmenter_cost import Setting

    width, height = _parse_size(size)
    try:
        setting = Setting(
            width=width,
            height=height,
            queries=queries,
            survivors=survivors,
            steps=steps,
            turns=turns,
            precision=precision,
            full=full,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    record = Record.begin(context, json_file, compare, fail_above)
    torch.set_num_threads(threads)
    result = _compare(setting)
    _print(result)
    record.end(result.to_json())


def _parse_size(size: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{2,5})x(\d{2,5})", size)
    if match is None:
        raise typer.BadParameter(f"{size!r} is no size: write WIDTHxHEIGHT, such as 512x384")
    return int(match[1]), int(match[2])


def _compare(setting: "Setting") -> "Comparison":
    from evaluation.segmenter_speed import compare

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("crops"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        return compare(setting, progress)


def _print(result: "Comparison") -> None:
    console = Console(soft_wrap=True)
    figures, setting = result.to_json(), result.setting
    console.print(
        f"{setting.width} x {setting.height}, queries of the steps {result.sizes}, {figures['templates']} templates, "
        f"{figures['threads']} thread(s), torch {figures['torch']}; CPU seconds, f ViT-B/16 and g ViT-L/14 "
        f"(precision {setting.precision})"
    )
    console.print(_stages(result), _units(result))
    least = figures["tera_flop"]
    work = least["f_picture"] + result.work.crops_encoded * least["g_crop"]
    lines = [
        (
            f"official scheme {result.official_cpu_s:.1f} s ({figures['official_is']}), "
            f"ours {result.ours_cpu_s:.1f} s: [bold]{figures['ratio_official']:.1f} times less[/bold]; "
            f"with the vocabulary's texts, embedded once a job in {result.texts_s:.1f} s, "
            f"{figures['ratio_official_with_texts']:.1f}; without the CRF on either side, "
            f"{figures['ratio_official_without_crf']:.1f}"
        ),
        (
            f"CAMs by autograd a query and step {result.autograd_cams_s:.2f} s, ours {result.ours_cams_s:.2f} s: "
            f"[bold]{figures['ratio_autograd']:.1f} times less[/bold]; of the whole picture "
            f"{figures['ratio_autograd_whole']:.2f}"
        ),
        (
            f"crops through g: {result.crops_of_official} in the official scheme, {result.work.crops_encoded} here: "
            f"{figures['ratio_crops']:.1f} times fewer"
        ),
        (
            f"arithmetic floor: f {least['f_picture']:.3f} TFLOP a picture, g {least['g_crop']:.3f} TFLOP a crop, "
            f"{work:.2f} in all; ours does {work * 1000 / result.ours_cpu_s:.0f} GFLOP a CPU second"
        ),
    ]
    if result.official_full_s is not None:
        lines.append(f"computed from counted units it would be {figures['official_computed_cpu_s']:.1f} s")
        lines.append(f"largest difference of a score between the two: {_largest_difference(result):.1e}")
    for line in lines:
        console.print(line)


def _stages(result: "Comparison") -> Table:
    table = Table("ours: stage", "CPU s", title="once a picture", title_justify="left")
    for name, cost in result.stages.items():
        table.add_row(name, f"{cost:.2f}")
    work = result.work
    table.add_row(f"{work.vector_jacobian_products} vector-Jacobian products", "")
    table.add_row(f"{work.crops_encoded} crops encoded, {work.crops_reused} reused", "")
    return table


def _units(result: "Comparison") -> Table:
    table = Table("official: unit", "each, CPU s", "times", "CPU s", title="of the steps", title_justify="left")
    for unit, many in result.counted.items():
        cost = result.units[unit]
        table.add_row(str(unit), f"{cost:.3f}", str(many), f"{cost * many:.1f}")
    return table


def _largest_difference(result: "Comparison") -> float:
    pairs = zip(result.looks, result.full_steps, strict=True)
    return max(
        abs(query.score - score)
        for look, step in pairs
        for query, score in zip(look.step.queries, step.scores, strict=True)
    )
