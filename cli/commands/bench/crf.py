"""`car bench crf`: the dense CRF beside pydensecrf."""

from functools import partial
from typing import Annotated

import typer

from cli.commands.bench import options
from cli.commands.bench.display import Case, run_cases
from cli.commands.bench.report import Report

LabelsOption = Annotated[
    list[int] | None, typer.Option(min=2, max=64, help="Labels including the background; repeatable.")
]


def crf(
    context: typer.Context,
    *,
    size: options.SizesOption = None,
    labels: LabelsOption = None,
    device: options.DeviceOption = options.BenchDevice.CPU,
    turns: options.TurnsOption = 3,
    threads: options.ThreadsOption = 1,
    json_file: options.JsonOption = None,
) -> None:
    """Compare the dense CRF with pydensecrf: seconds of an image, agreement of labels.

    Each size is measured with each number of labels; the default is 512x512 and 6.
    """
    options.set_up_torch(device, threads)
    report = Report.start(context, json_file, device=device)
    measures = {
        f"{width}x{height}, {count} labels": partial(_measure, width, height, count, device, turns)
        for width, height in options.parse_sizes(size or ["512x512"])
        for count in labels or [6]
    }
    report.finish(run_cases(measures, "pydensecrf", device))


def _measure(width: int, height: int, count: int, device: str, turns: int) -> Case:
    """Measure both backends in alternation over one synthetic image, with CaR's settings for VOC."""
    import torch

    from car.options import CrfBackend
    from car.presets import preset
    from evaluation.stopwatch import Stopwatch, clock_of
    from evaluation.synthetic_images import photograph, spots
    from worker.segmenter.crf import dense_crf
    from worker.segmenter.crf.compiled_arrays import host_arrays
    from worker.segmenter.crf.device_arrays import DeviceArrays

    watch = Stopwatch(clock_of(torch.device(device)))
    arrays = host_arrays() if device == "cpu" else DeviceArrays(torch.device(device))
    image, cams = photograph(height, width), spots(count - 1, height // 16, width // 16)
    groups, recipe, results = [dense_crf.LabelGroup(cams, 1.0)], preset("voc"), {}
    if device != "cpu":
        dense_crf.label(image, groups, recipe, arrays=arrays)  # the first run loads kernels
    for _ in range(turns):
        for backend in CrfBackend:
            with watch.stage(backend):
                results[backend] = dense_crf.label(image, groups, recipe, backend=backend, arrays=arrays)[0]
        watch.end_turn()
    figures = {
        "ratio_pydensecrf": watch.least["pydensecrf"] / watch.least["lattice"],
        "seconds": watch.least,
        "agreement": float((results[CrfBackend.LATTICE] == results[CrfBackend.PYDENSECRF]).mean()),
        "arrays": type(arrays).__name__,
    }
    implementation = {"CompiledArrays": "compiled", "DeviceArrays": "CUDA"}.get(type(arrays).__name__, "scipy")
    return Case({f"lattice, {implementation}": watch.least["lattice"]}, watch.least["pydensecrf"], figures)
