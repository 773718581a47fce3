"""`car bench segmenter`: a picture's cost beside the official scheme of work and beside the floor of its arithmetic."""

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from car.precision import Precision
from cli.bench import segmenter_tables
from cli.bench.options import OfScale, OnDevice, Scale, Sizes, Threads, Turns, Where, parse_sizes, prepare
from cli.bench.plot import Bar, PlotFile, draw
from cli.bench.record import CompareFile, FailAbove, JsonFile, Record

if TYPE_CHECKING:
    from evaluation.segmenter_cost import Comparison, Setting

_STREAM_ON_CUDA = 64


def segmenter(
    context: typer.Context,
    *,
    size: Sizes = None,
    queries: Annotated[list[int] | None, typer.Option(min=1, max=20, help="Words asked for; repeatable.")] = None,
    survivors: Annotated[int, typer.Option(min=1, max=20, help="Queries that step 1 keeps.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Most steps of the recurrence.")] = 2,
    precision: Annotated[
        Precision, typer.Option("--precision", help="Of our models; the official scheme keeps that of auto.")
    ] = Precision.AUTO,
    device: OnDevice = Where.CPU,
    models: OfScale = Scale.FULL,
    stream: Annotated[
        int | None, typer.Option(min=0, help="Pictures one after the other for images/s; 64 on CUDA, none on a CPU.")
    ] = None,
    turns: Turns = 2,
    threads: Threads = 1,
    full: Annotated[bool, typer.Option("--full", help="Run the official scheme to its end.")] = False,
    plot: PlotFile = None,
    json_file: JsonFile = None,
    compare: CompareFile = None,
    fail_above: FailAbove = None,
) -> None:
    """Compare what a picture costs with the official code's scheme of work and with its arithmetic's floor.

    Each size is measured with each number of queries; 512x384 and 10 if none is given.
    """
    prepare(device, threads)
    chosen = {
        "survivors": survivors,
        "steps": steps,
        "turns": turns,
        "full": full,
        "device": device.value,
        "precision": _resolved(precision, device),
        "stream": (_STREAM_ON_CUDA if device is Where.CUDA else 0) if stream is None else stream,
    }
    settings = _settings(parse_sizes(size or ["512x384"]), queries or [10], models, chosen)
    names = [setting.name for setting in settings]
    resolved = {name: chosen[name] for name in ("precision", "stream")}
    record = Record.begin(
        context, json_file, compare, fail_above, resolved, device=device, cases=names, spread=("size", "queries")
    )
    results = _compare_all(settings, 0.1 if models is Scale.TINY else 1.0)
    console = Console(soft_wrap=True)
    for result in results:
        segmenter_tables.show(console, result)
    if len(results) > 1:
        console.print(segmenter_tables.summary(results))
    if plot is not None:
        draw(plot, [(result.setting.name, _bars(result)) for result in results], "seconds a picture")
    record.end({"cases": {result.setting.name: result.to_json() for result in results}})


def _resolved(precision: Precision, device: Where) -> Precision:
    """What worker.weights makes of it."""
    if precision is not Precision.AUTO:
        return precision
    return Precision.FLOAT16 if device is Where.CUDA else Precision.FLOAT32


def _settings(
    sizes: list[tuple[int, int]], queries: list[int], models: Scale, chosen: dict[str, Any]
) -> "list[Setting]":
    from evaluation.random_models import TINY_F, TINY_G
    from evaluation.segmenter_cost import Setting

    # Small models need more gain to take sides, and then a smaller scale.
    of_models: dict[str, Any] = {"shapes": (TINY_F, TINY_G), "gain": 4.0, "scale": 20.0} if models is Scale.TINY else {}
    try:
        return [
            Setting(width=width, height=height, queries=many, **chosen, **of_models)
            for width, height in sizes
            for many in queries
        ]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _compare_all(settings: "list[Setting]", share: float) -> "list[Comparison]":
    """`share`: of the matrices and copies by which the machine's peaks are measured."""
    from evaluation.segmenter_models import Models, peaks_of
    from evaluation.segmenter_speed import compare
    from worker.finishers import Finishers

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("crops"))
    with (
        Finishers(processes=max(1, (os.cpu_count() or 2) - 1)) as finishers,
        Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar,
    ):
        task = bar.add_task("building random models", total=None)
        models, results = Models.of(settings[0]), []
        peaks = peaks_of(settings[0], share=share)
        for setting in settings:

            def progress(what: str, done: int, total: int, name: str = setting.name) -> None:
                bar.update(task, description=f"{name}: {what}", completed=done, total=total)

            results.append(compare(setting, progress, models=models, peaks=peaks, finish=finishers.submit))
        return results


def _bars(result: "Comparison") -> list[Bar]:
    return [
        Bar(name, told["seconds"], told.get("floor_seconds")) for name, told in result.stages_beside_floors().items()
    ]
