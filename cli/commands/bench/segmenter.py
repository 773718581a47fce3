"""`car bench segmenter`: the time of an image beside the official scheme."""

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from car.options import Precision
from cli.commands.bench import options
from cli.commands.bench.display import Case, run_cases
from cli.commands.bench.report import Report
from cli.output.terminal import Terminal

if TYPE_CHECKING:
    from evaluation.segmenter_speed import Models, Setting

QueriesOption = Annotated[list[int] | None, typer.Option(min=1, max=20, help="Number of labels; repeatable.")]
PrecisionOption = Annotated[
    Precision, typer.Option("--precision", help="Of our models; the official scheme keeps that of auto.")
]


def segmenter(
    context: typer.Context,
    *,
    size: options.SizesOption = None,
    queries: QueriesOption = None,
    precision: PrecisionOption = Precision.AUTO,
    device: options.DeviceOption = options.BenchDevice.CPU,
    models: options.ModelSizeOption = options.ModelSize.FULL,
    turns: options.TurnsOption = 2,
    threads: options.ThreadsOption = 1,
    json_file: options.JsonOption = None,
) -> None:
    """Measure the time of an image by stage, beside the official scheme.

    Models of full size with random weights run on this machine: no download is needed. Each size is measured with each
    number of queries; the default is 512x384 and 10.
    """
    options.set_up_torch(device, threads)
    settings = make_settings(size, queries, models, precision, device=device.value, turns=turns)
    report = Report.start(context, json_file, device=device, precision=settings[0].precision)
    from evaluation.segmenter_speed import Models

    with Terminal(stderr=True).status("building random models"):
        pair = Models.load(settings[0])
    measures = {setting.name: partial(_measure, setting, pair) for setting in settings}
    report.finish(run_cases(measures, "official", device))


def make_settings(
    sizes: list[str] | None,
    queries: list[int] | None,
    models: options.ModelSize,
    precision: Precision,
    **others: Any,  # noqa: ANN401 - other fields of Setting
) -> "list[Setting]":
    """Return the setting of each size and number of queries. Raises: typer.BadParameter."""
    from evaluation.random_models import TINY_F, TINY_G
    from evaluation.segmenter_speed import Setting

    if precision is Precision.AUTO:  # as worker.models.weights chooses it
        precision = Precision.FLOAT16 if others["device"] == "cuda" else Precision.FLOAT32
    if models is options.ModelSize.TINY:  # a higher gain makes scores differ, which then need a smaller scale
        others |= {"shapes": (TINY_F, TINY_G), "gain": 4.0, "scale": 20.0}
    try:
        return [
            Setting(width=width, height=height, queries=count, precision=precision, **others)
            for width, height in options.parse_sizes(sizes or ["512x384"])
            for count in queries or [10]
        ]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _measure(setting: "Setting", models: "Models") -> Case:
    from evaluation.segmenter_speed import Comparison

    comparison = Comparison(setting, models)
    for _ in range(setting.turns):
        comparison.measure_segmenter()
        comparison.measure_units(comparison.official_scheme())
    return Case(comparison.stages, comparison.official_s, comparison.to_json())
