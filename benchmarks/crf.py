"""`python -m benchmarks crf`: the dense CRF beside pydensecrf, with lattice points, products, bytes and the floor."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.op_counter import OpCounter
from benchmarks.roofline import measure_copy_rate
from car.options import CrfBackend
from car.presets import preset
from cli.commands.bench import options
from cli.commands.bench.crf import LabelsOption
from cli.commands.bench.display import measure_cases, number_table
from cli.commands.bench.report import Report
from evaluation.stopwatch import Stopwatch, clock_of
from evaluation.synthetic_images import photograph, spots
from worker.segmenter.crf import dense_crf
from worker.segmenter.crf.arrays import Arrays
from worker.segmenter.crf.compiled_arrays import host_arrays
from worker.segmenter.crf.dense_crf import LabelGroup
from worker.segmenter.crf.device_arrays import DeviceArrays
from worker.segmenter.crf.mean_field import MeanField
from worker.segmenter.resizing import Image

_RECIPE = preset("voc")
_GOAL_CUDA_MS = 15.0
_SOFTMAX_PASSES = 8
"""Tables of (pixels, words) that normalisation reads or writes once each."""


@dataclass(frozen=True, kw_only=True)
class CrfCost:
    """Figures of one setting: CPU seconds of one thread on a CPU, wall seconds on CUDA."""

    width: int
    height: int
    classes: int
    """Labels and the background."""
    device: str
    arrays: str
    """The class of the lattices' arrays."""
    seconds: Mapping[str, float]
    """By implementation (`pydensecrf`, `lattice`) and by part of the lattice; the least of the turns."""
    agreement: float
    """Share of pixels to which both implementations give the same label."""
    points: Mapping[str, int]
    """Lattice points by kernel."""
    products: int
    """Multiply-adds of one iteration."""
    bytes: int
    """Least that one iteration reads and writes."""
    launches: int
    """Kernels that one iteration launches on a device."""
    floor_seconds: float
    """`bytes` of all iterations at the measured rate of a copy."""

    @property
    def ratio(self) -> float:
        """The speed-up over pydensecrf."""
        return self.seconds["pydensecrf"] / self.seconds["lattice"]

    def to_json(self) -> dict[str, Any]:
        """Return all figures, the ratio first."""
        return {"ratio_pydensecrf": self.ratio} | asdict(self)


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
    """Compare the dense CRF with pydensecrf: time, agreement of labels, floor of the memory traffic.

    Each size is measured with each number of labels; the default is 512x512 and 6.
    """
    options.set_up_torch(device, threads)
    report = Report.start(context, json_file, device=device)
    costs = measure_cases(
        {
            f"{width}x{height}, {count} labels": partial(measure_crf, width, height, count, device.value, turns)
            for width, height in options.parse_sizes(size or ["512x512"])
            for count in labels or [6]
        }
    )
    Console(soft_wrap=True).print(_table(costs, device))
    report.finish({"cases": {name: cost.to_json() for name, cost in costs.items()}})


def measure_crf(width: int, height: int, classes: int, device: str = "cpu", turns: int = 3) -> CrfCost:
    """Measure both implementations in alternation over one synthetic image, with CaR's settings. On a CPU torch's
    number of threads applies; the lattices use one thread and pydensecrf another.
    """
    image, group = photograph(height, width), LabelGroup(spots(classes - 1, height // 16, width // 16), 1.0)
    torch_device = torch.device(device)
    arrays: Arrays = host_arrays() if torch_device.type == "cpu" else DeviceArrays(torch_device)
    if torch_device.type != "cpu":
        _field(arrays, image).label(group.cams, 1.0, independent=False)  # the first run loads kernels
    host, watch = Stopwatch(time.process_time), Stopwatch(clock_of(torch_device))
    for _ in range(turns):
        with host.stage("pydensecrf"):
            [expected] = dense_crf.label(image, [group], _RECIPE, backend=CrfBackend.PYDENSECRF)
        with watch.stage("lattice"):
            with watch.stage("lattice: points"):
                field = _field(arrays, image)
            with watch.stage("lattice: iterations"):
                labels = field.label(group.cams, 1.0, independent=False)
        host.end_turn()
        watch.end_turn()
    moved, pixels = _bytes_moved(field, classes - 1), height * width
    return CrfCost(
        width=width,
        height=height,
        classes=classes,
        device=device,
        arrays=type(arrays).__name__,
        seconds=host.least | watch.least,
        agreement=float((labels == expected).mean()),
        points={"gaussian": field.kernels[0].points, "bilateral": field.kernels[1].points},
        products=sum(kernel.entries for kernel in field.kernels) * (classes - 1) + 2 * pixels * classes,
        bytes=moved,
        launches=launches(),
        floor_seconds=moved * field.iterations / measure_copy_rate(torch_device),
    )


def launches() -> int:
    """Return the kernels of one iteration on a device, counted on the CPU's tensors."""
    arrays = DeviceArrays(torch.device("cpu"))
    field, cams = _field(arrays, photograph(32, 32)), spots(3, 4, 4)
    counts: list[int] = []
    for iterations in (1, 2):
        with OpCounter() as counter:
            MeanField(arrays, field.size, field.kernels, iterations, field.steep).label(cams, 1.0, independent=False)
        counts.append(counter.counts.kernels)
    return counts[1] - counts[0]


def _field(arrays: Arrays, image: Image) -> MeanField:
    return MeanField.from_image(arrays, dense_crf.appearance(image, _RECIPE), _RECIPE)


def _bytes_moved(field: MeanField, words: int) -> int:
    """Return the bytes of one iteration: each lattice is read once, each table written and read once."""
    pixels, total = field.size[0] * field.size[1], 0
    for kernel in field.kernels:
        tables = 2 * (pixels + kernel.points * kernel.axes) + 2 * kernel.points
        total += kernel.bytes + 4 * tables * words
    return total + 4 * _SOFTMAX_PASSES * pixels * words


def _table(costs: dict[str, CrfCost], device: options.BenchDevice) -> Table:
    title = f"seconds; goal on an H200 at 512x512: <= {_GOAL_CUDA_MS:g} ms"
    if device is options.BenchDevice.CPU:
        compiled = all(cost.arrays == "CompiledArrays" for cost in costs.values())
        title = f"CPU seconds, {'compiled kernels' if compiled else 'scipy: the kernels were not compiled'}"
    table = number_table("image", "pydensecrf", "lattice", "ratio", "same labels", "floor", "x floor", title=title)
    for name, cost in costs.items():
        lattice, floor = cost.seconds["lattice"], cost.floor_seconds
        table.add_row(
            name,
            f"{cost.seconds['pydensecrf']:.3g}",
            f"{lattice:.3g}",
            f"[bold]{cost.ratio:.2f}[/bold]",
            f"{cost.agreement:.3%}",
            f"{floor:.2g}",
            f"{lattice / floor:.1f}",
        )
    return table
