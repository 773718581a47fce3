"""`python -m benchmarks segmenter`: the time of an image beside the official scheme and the floor of its arithmetic."""

import os
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.segmenter_analysis import SegmenterAnalysis, analyze, peaks_of
from car.options import Precision
from cli.commands.bench import options
from cli.commands.bench.display import number_table
from cli.commands.bench.report import Report
from cli.commands.bench.segmenter import PrecisionOption, QueriesOption, make_settings
from evaluation.segmenter_speed import Models, Setting
from worker.pipeline.postprocess_pool import PostprocessPool

_STREAM_ON_CUDA = 64


def segmenter(
    context: typer.Context,
    *,
    size: options.SizesOption = None,
    queries: QueriesOption = None,
    survivors: Annotated[int, typer.Option(min=1, max=20, help="Queries that step 1 keeps.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Maximum steps of the recurrence.")] = 2,
    precision: PrecisionOption = Precision.AUTO,
    device: options.DeviceOption = options.BenchDevice.CPU,
    models: options.ModelSizeOption = options.ModelSize.FULL,
    stream: Annotated[
        int | None, typer.Option(min=0, help="Images of the throughput run; the default is 64 on CUDA and 0 on a CPU.")
    ] = None,
    turns: options.TurnsOption = 2,
    threads: options.ThreadsOption = 1,
    full: Annotated[bool, typer.Option("--full", help="Run the official scheme to its end.")] = False,
    json_file: options.JsonOption = None,
) -> None:
    """Compare the time of an image with the official scheme and with the floor of its arithmetic.

    Models of full size with random weights run on this machine: no download is needed. Each size is measured with each
    number of queries; the default is 512x384 and 10.
    """
    options.set_up_torch(device, threads)
    if stream is None:
        stream = _STREAM_ON_CUDA if device is options.BenchDevice.CUDA else 0
    others: dict[str, Any] = {"device": device.value, "turns": turns, "survivors": survivors, "steps": steps}
    settings = make_settings(size, queries, models, precision, **others)
    report = Report.start(context, json_file, device=device, precision=settings[0].precision, stream=stream)
    results = _analyze_all(settings, 0.1 if models is options.ModelSize.TINY else 1.0, stream, full=full)
    console = Console(soft_wrap=True)
    for result in results:
        _print(console, result)
    console.print(_summary(results))
    report.finish({"cases": {result.setting.name: result.to_json() for result in results}})


def _analyze_all(settings: list[Setting], peak_scale: float, stream: int, *, full: bool) -> list[SegmenterAnalysis]:
    """Analyze each setting. `peak_scale` scales the matrices and copies that measure the machine's peaks."""
    with (
        PostprocessPool(processes=max(1, (os.cpu_count() or 2) - 1)) as pool,
        Console(stderr=True).status("building random models") as status,
    ):
        models, peaks, results = Models.load(settings[0]), peaks_of(settings[0], scale=peak_scale), []
        for setting in settings:

            def progress(phase: str, name: str = setting.name) -> None:
                status.update(f"{name}: {phase}")

            result = analyze(
                setting, progress, models=models, peaks=peaks, stream=stream, full=full, postprocess=pool.submit
            )
            results.append(result)
        return results


def _summary(results: Sequence[SegmenterAnalysis]) -> Table:
    """Return a table with one row per setting."""
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


def _print(console: Console, result: SegmenterAnalysis) -> None:
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
    own_counts = number_table("our counts", "per image")
    for name, value in figures["counts"]["ours"].items():
        own_counts.add_row(name.replace("_", " "), f"{value:,.4g}")
    official = number_table("unit of the official scheme", "each, s", "times", "s")
    for unit, times in result.unit_counts.items():
        seconds = result.units[unit]
        official.add_row(str(unit), f"{seconds:.3g}", str(times), f"{seconds * times:.3g}")
    console.print(stages, own_counts, official)
    for line in _sentences(result, figures):
        console.print(line)


def _sentences(result: SegmenterAnalysis, figures: dict[str, Any]) -> list[str]:
    cams = result.cams_s
    lines = [
        (
            f"official scheme {result.official_s:.3g} s ({figures['official_is']}, {figures['official_precision']}), "
            f"ours {result.ours_s:.3g} s: [bold]{figures['ratio_official']:.1f} times as fast[/bold]; with the "
            f"vocabulary's texts, embedded once a job in {result.texts_s:.3g} s, "
            f"{figures['ratio_official_with_texts']:.1f}; without the CRF {figures['ratio_official_without_crf']:.1f}"
        ),
        (
            f"CAMs by autograd per query and step {cams['autograd']:.3g} s, ours {cams['ours']:.3g} s: "
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
