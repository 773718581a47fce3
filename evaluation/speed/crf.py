"""The time of an image's dense CRF beside pydensecrf, with lattice points, products, bytes and the floor."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from car.options import CrfBackend
from car.presets import preset
from evaluation.speed.op_counter import OpCounter
from evaluation.speed.roofline import measure_copy_rate
from evaluation.stopwatch import Stopwatch, clock_of
from evaluation.synthetic_images import photograph
from worker.segmenter.crf import dense_crf
from worker.segmenter.crf.arrays import Arrays
from worker.segmenter.crf.compiled_arrays import host_arrays
from worker.segmenter.crf.dense_crf import LabelGroup
from worker.segmenter.crf.device_arrays import DeviceArrays
from worker.segmenter.crf.mean_field import Field
from worker.segmenter.resizing import Image

_RECIPE = preset("voc")
_SOFTMAX_PASSES = 8
"""Tables of (pixels, words) that normalising and adding up read or write once each."""


@dataclass(frozen=True, kw_only=True)
class CrfCost:
    """Figures of one setting: CPU seconds of one thread on a CPU, wall seconds on CUDA."""

    width: int
    height: int
    classes: int
    """Labels and the background."""
    device: str
    arrays: str
    """The class whose operations the lattices ran on."""
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
        """All figures, the ratio first."""
        return {"ratio_pydensecrf": self.ratio} | asdict(self)


def measure_crf(width: int, height: int, classes: int, device: str = "cpu", turns: int = 3) -> CrfCost:
    """Measure both implementations in alternation over one synthetic image, with CaR's settings. On a CPU torch's
    number of threads applies; the lattices use one thread and pydensecrf another.
    """
    image, group = photograph(height, width), LabelGroup(_blobs(classes - 1, height // 16, width // 16), 1.0)
    torch_device = torch.device(device)
    arrays: Arrays = host_arrays() if torch_device.type == "cpu" else DeviceArrays(torch_device)
    if torch_device.type != "cpu":
        _field(arrays, image).label(group.cams, 1.0, alone=False)  # the first run loads kernels
    host, watch = Stopwatch(time.process_time), Stopwatch(clock_of(torch_device))
    for _ in range(turns):
        with host.stage("pydensecrf"):
            [expected] = dense_crf.label(image, [group], _RECIPE, by=CrfBackend.PYDENSECRF)
        with watch.stage("lattice"):
            with watch.stage("lattice: points"):
                field = _field(arrays, image)
            with watch.stage("lattice: iterations"):
                labels = field.label(group.cams, 1.0, alone=False)
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
    """Kernels of one iteration on a device, counted on the CPU's tensors."""
    arrays = DeviceArrays(torch.device("cpu"))
    field, cams = _field(arrays, photograph(32, 32)), _blobs(3, 4, 4)
    counts: list[int] = []
    for iterations in (1, 2):
        with OpCounter() as counter:
            Field(arrays, field.size, field.kernels, iterations, field.steep).label(cams, 1.0, alone=False)
        counts.append(counter.counts.kernels)
    return counts[1] - counts[0]


def _field(arrays: Arrays, image: Image) -> Field:
    return Field.over(arrays, dense_crf.appearance(image, _RECIPE), _RECIPE)


def _blobs(words: int, rows: int, columns: int) -> Float[np.ndarray, "n rows columns"]:
    rng = np.random.default_rng(words)
    y, x = np.mgrid[:rows, :columns]
    middles = rng.uniform((0, 0), (rows, columns), (words, 2))
    return np.stack([np.exp(-(((y - r) / rows) ** 2 + ((x - c) / columns) ** 2) * 25) for r, c in middles]).astype(
        np.float32
    )


def _bytes_moved(field: Field, words: int) -> int:
    """Bytes of one iteration: each lattice is read once, each table written once and read once."""
    pixels, total = field.size[0] * field.size[1], 0
    for kernel in field.kernels:
        tables = 2 * (pixels + kernel.points * kernel.axes) + 2 * kernel.points
        total += kernel.bytes + 4 * tables * words
    return total + 4 * _SOFTMAX_PASSES * pixels * words
