"""`car bench segmenter`: the time of an image beside the official scheme and the floor of its arithmetic."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from car.options import Precision
from cli.commands.bench.display import number_table
from cli.commands.bench.options import (
    BenchDevice,
    DeviceOption,
    JsonOption,
    ModelSize,
    ModelSizeOption,
    SizesOption,
    ThreadsOption,
    TurnsOption,
    parse_sizes,
    set_up_torch,
)
from cli.commands.bench.report import Report

if TYPE_CHECKING:
    from evaluation.speed.segmenter_figures import Comparison, Setting

_STREAM_ON_CUDA = 64


def segmenter(
    context: typer.Context,
    *,
    size: SizesOption = None,
    queries: Annotated[list[int] | None, typer.Option(min=1, max=20, help="Number of labels; repeatable.")] = None,
    survivors: Annotated[int, typer.Option(min=1, max=20, help="Queries that step 1 keeps.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Maximum steps of the recurrence.")] = 2,
    precision: Annotated[
        Precision, typer.Option("--precision", help="Of our models; the official scheme keeps that of auto.")
    ] = Precision.AUTO,
    device: DeviceOption = BenchDevice.CPU,
    models: ModelSizeOption = ModelSize.FULL,
    stream: Annotated[
        int | None, typer.Option(min=0, help="Images of the throughput run; the default is 64 on CUDA and 0 on a CPU.")
    ] = None,
    turns: TurnsOption = 2,
    threads: ThreadsOption = 1,
    full: Annotated[bool, typer.Option("--full", help="Run the official scheme to its end.")] = False,
    json_file: JsonOption = None,
) -> None:
    """Compare the time of an image with the official scheme and with the floor of its arithmetic.

    Models of full size with random weights run on this machine: no download is needed. Each size is measured with each
    number of queries; the default is 512x384 and 10.
    """
    set_up_torch(device, threads)
    resolved = {
        "precision": _resolve(precision, device),
        "stream": (_STREAM_ON_CUDA if device is BenchDevice.CUDA else 0) if stream is None else stream,
    }
    options = {"survivors": survivors, "steps": steps, "turns": turns, "full": full, "device": device.value, **resolved}
    settings = _settings(parse_sizes(size or ["512x384"]), queries or [10], models, options)
    report = Report.start(context, json_file, device=device, resolved=resolved)
    results = _compare_all(settings, 0.1 if models is ModelSize.TINY else 1.0)
    console = Console(soft_wrap=True)
    for result in results:
        _print(console, result)
    console.print(_summary(results))
    report.finish({"cases": {result.setting.name: result.to_json() for result in results}})


def _resolve(precision: Precision, device: BenchDevice) -> Precision:
    """The precision that worker.models.weights chooses."""
    if precision is not Precision.AUTO:
        return precision
    return Precision.FLOAT16 if device is BenchDevice.CUDA else Precision.FLOAT32


def _settings(
    sizes: list[tuple[int, int]], queries: list[int], models: ModelSize, options: dict[str, Any]
) -> "list[Setting]":
    from evaluation.random_models import TINY_F, TINY_G
    from evaluation.speed.segmenter_figures import Setting

    # Small models need a higher gain for distinct scores, and then a smaller scale.
    tiny: dict[str, Any] = {"shapes": (TINY_F, TINY_G), "gain": 4.0, "scale": 20.0}
    options |= tiny if models is ModelSize.TINY else {}
    try:
        return [Setting(width=width, height=height, queries=n, **options) for width, height in sizes for n in queries]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _compare_all(settings: "list[Setting]", peak_scale: float) -> "list[Comparison]":
    """`peak_scale` scales the matrices and copies that measure the machine's peaks."""
    from evaluation.speed.segmenter import Models, compare, peaks_of
    from worker.pipeline.postprocess_pool import PostprocessPool

    with (
        PostprocessPool(processes=max(1, (os.cpu_count() or 2) - 1)) as finishers,
        Console(stderr=True).status("building random models") as status,
    ):
        models, peaks, results = Models.of(settings[0]), peaks_of(settings[0], scale=peak_scale), []
        for setting in settings:

            def progress(phase: str, name: str = setting.name) -> None:
                status.update(f"{name}: {phase}")

            results.append(compare(setting, progress, models=models, peaks=peaks, postprocess=finishers.submit))
        return results


def _summary(results: "Sequence[Comparison]") -> Table:
    """One line a setting."""
    table = number_table("image", "ours, s", "official, s", "ratio", "with texts", "times the floor", "images/s")
    for result in results:
        figures = result.to_json()
        stages = [stage for name, stage in figures["stages"].items() if name != "text"]
        floor = sum(stage.get("floor_seconds", 0.0) for stage in stages)
        table.add_row(
            result.setting.name,
            f"{result.ours_s:.3g}",
            f"{result.official_s:.3g}",
            f"{figures['ratio_official']:.1f}",
            f"{figures['ratio_official_with_texts']:.1f}",
            f"{result.ours_s / floor:.2f}",
            f"{result.throughput.images_per_s:.2f}" if result.throughput else "",
        )
    return table


def _print(console: Console, result: "Comparison") -> None:
    figures, setting = result.to_json(), result.setting
    console.print(
        f"[bold]{setting.width} x {setting.height}[/bold], queries of the steps {result.sizes}, "
        f"{figures['templates']} templates; {figures['device']}, {figures['precision']}, {figures['threads']} "
        f"thread(s), torch {figures['torch']}; {figures['seconds_are']}"
    )
    stages = number_table("our stage (text: once a vocabulary)", "seconds", "floor", "times the floor", "limited by")
    for name, stage in figures["stages"].items():
        floor = (f"{stage['floor_seconds']:.2g}", f"{stage['times_floor'] or 0:,.1f}", stage["ruled_by"])
        stages.add_row(name, f"{stage['seconds']:.3g}", *(floor if "floor_seconds" in stage else ()))
    ours = number_table("our counts", "per image")
    for name, value in figures["counts"]["ours"].items():
        ours.add_row(name.replace("_", " "), f"{value:,.4g}")
    official = number_table("unit of the official scheme", "each, s", "times", "s")
    for unit, times in result.unit_counts.items():
        seconds = result.units[unit]
        official.add_row(str(unit), f"{seconds:.3g}", str(times), f"{seconds * times:.3g}")
    console.print(stages, ours, official)
    for line in _sentences(result, figures):
        console.print(line)


def _sentences(result: "Comparison", figures: dict[str, Any]) -> list[str]:
    lines = [
        (
            f"official scheme {result.official_s:.3g} s ({figures['official_is']}, {figures['official_precision']}), "
            f"ours {result.ours_s:.3g} s: [bold]{figures['ratio_official']:.1f} times as fast[/bold]; with the "
            f"vocabulary's texts, embedded once a job in {result.texts_s:.3g} s, "
            f"{figures['ratio_official_with_texts']:.1f}; without the CRF {figures['ratio_official_without_crf']:.1f}"
        ),
        (
            f"CAMs by autograd per query and step {result.autograd_cams_s:.3g} s, ours {result.ours_cams_s:.3g} s: "
            f"[bold]{figures['ratio_autograd']:.1f} times as fast[/bold]; of the whole image "
            f"{figures['ratio_autograd_whole']:.2f}"
        ),
        f"crops through g: {figures['ratio_crops']:.1f} times fewer than in the official scheme",
    ]
    lines += [
        f"peaks of this machine in {name}: {peaks['peak_flop_per_s'] / 1e9:,.0f} GFLOP/s, "
        f"{peaks['peak_bytes_per_s'] / 1e9:,.1f} GB/s"
        for name, peaks in figures["peaks"].items()
    ]
    if (run := result.throughput) is not None:
        memory = f", peak device memory {run.peak_memory / 2**30:.2f} GiB" if run.peak_memory is not None else ""
        lines.append(
            f"throughput of {run.images} images: [bold]{run.images_per_s:.2f} images/s[/bold], device busy "
            f"{run.busy_share:.0%} of the time{memory}"
        )
    if result.official_full_s is not None:
        scores = (
            abs(query.score - score)
            for trace, step in zip(result.traces, result.full_steps, strict=True)
            for query, score in zip(trace.step.queries, step.scores, strict=True)
        )
        lines.append(
            f"computed from units the official scheme would take {figures['official_computed_s']:.3g} s; largest "
            f"difference of a score {max(scores):.1e}"
        )
    return lines
