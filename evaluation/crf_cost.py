"""What the dense CRF of a picture costs, beside pydensecrf: seconds, lattice points, products, bytes, and the floor."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch.utils._python_dispatch import TorchDispatchMode

from car.crf_by import CrfBy
from car.presets import preset
from worker.segmenter import crf
from worker.segmenter.arrays import Arrays
from worker.segmenter.compiled import host_arrays
from worker.segmenter.crf import Competition
from worker.segmenter.device_arrays import DeviceArrays
from worker.segmenter.mean_field import Field

_RECIPE = preset("voc")
_PASSES_OF_SOFTMAX = 8
"""Tables of (pixels, words) that normalising and adding up read or write once each."""
_COPIED = 2**26

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class CrfCost:
    """Figures of one setting. CPU seconds of one thread on the CPU, seconds by the clock on a device."""

    width: int
    height: int
    classes: int
    """Labels with the background."""
    device: str
    arrays: str
    """Whose operations the lattices ran on."""
    seconds: Mapping[str, float]
    """By who computed it (`pydensecrf`, `lattice`) and for the lattice by part; the least of the turns."""
    agreement: float
    """Share of pixels to which both give the same label."""
    points: Mapping[str, int]
    """Lattice points by kernel."""
    products: int
    """Multiply-adds of one iteration."""
    bytes: int
    """That one iteration reads and writes at least."""
    launches: int
    """Kernels that one iteration launches on a device."""
    floor_seconds: float | None = None
    """What `bytes` take at the memory's measured speed, over all iterations."""

    @property
    def ratio(self) -> float:
        """How many times as fast as pydensecrf."""
        return self.seconds["pydensecrf"] / self.seconds["lattice"]

    def to_json(self) -> dict[str, Any]:
        """All figures, the ratio first."""
        return {"ratio_pydensecrf": self.ratio} | asdict(self)


def measure_crf(width: int, height: int, classes: int, device: str = "cpu", turns: int = 3) -> CrfCost:
    """Both sides turn about in this process over one made-up picture, with CaR's settings. A CPU with as many threads
    as torch has, of which the lattices use one and pydensecrf another.
    """
    image, one = photograph(height, width), Competition(_blobs(classes - 1, height // 16, width // 16), 1.0)
    where = torch.device(device)
    arrays: Arrays = host_arrays() if where.type == "cpu" else DeviceArrays(where)
    clock = _clock(where)
    if where.type != "cpu":
        _field(arrays, image).label(one.cams, 1.0, alone=False)  # the first run loads kernels
    least: dict[str, float] = {}
    for _ in range(turns):
        [expected] = _timed(
            least, "pydensecrf", time.process_time, lambda: crf.label(image, [one], _RECIPE, by=CrfBy.PYDENSECRF)
        )
        start = clock()
        field = _timed(least, "lattice: points", clock, lambda: _field(arrays, image))
        found = _timed(least, "lattice: iterations", clock, lambda: field.label(one.cams, 1.0, alone=False))  # noqa: B023
        least["lattice"] = min(least.get("lattice", np.inf), clock() - start)
    moved, pixels = _moved(field, classes - 1), height * width
    return CrfCost(
        width=width,
        height=height,
        classes=classes,
        device=device,
        arrays=type(arrays).__name__,
        seconds=least,
        agreement=float((found == expected).mean()),
        points={"gaussian": field.kernels[0].points, "bilateral": field.kernels[1].points},
        products=sum(kernel.entries for kernel in field.kernels) * (classes - 1) + 2 * pixels * classes,
        bytes=moved,
        launches=launches(),
        floor_seconds=moved * field.iterations / _bytes_a_second(where),
    )


def photograph(height: int, width: int, noise: float = 2.0) -> UInt8[np.ndarray, "h w 3"]:
    """Colours that change slowly, and the noise of a good camera: what makes lattices large are colours."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 37 + y / 91), np.cos(y / 53 - x / 120), np.sin((x + y) / 77)]
    image = 128 + 80 * np.stack(waves, -1) + np.random.default_rng(0).normal(0, noise, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8)


def launches() -> int:
    """Counted: operations that compute, not those that only look at memory in another way."""
    arrays = DeviceArrays(torch.device("cpu"))
    field, cams = _field(arrays, photograph(32, 32)), _blobs(3, 4, 4)
    counts: list[int] = []
    for iterations in (1, 2):
        with _Counting() as counting:  # type: ignore[no-untyped-call]
            Field(arrays, field.size, field.kernels, iterations, field.steep).label(cams, 1.0, alone=False)
        counts.append(counting.count)
    return counts[1] - counts[0]


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """How many operators ran that are no views."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def _field(arrays: Arrays, image: UInt8[np.ndarray, "h w 3"]) -> Field:
    return Field.over(arrays, crf.appearance(image, _RECIPE), _RECIPE)


def _blobs(words: int, rows: int, columns: int) -> Float[np.ndarray, "n rows columns"]:
    rng = np.random.default_rng(words)
    y, x = np.mgrid[:rows, :columns]
    middles = rng.uniform((0, 0), (rows, columns), (words, 2))
    return np.stack([np.exp(-(((y - r) / rows) ** 2 + ((x - c) / columns) ** 2) * 25) for r, c in middles]).astype(
        np.float32
    )


def _moved(field: Field, words: int) -> int:
    """Bytes: each lattice once, each table written once and read once."""
    pixels, total = field.size[0] * field.size[1], 0
    for kernel in field.kernels:
        tables = 2 * (pixels + kernel.points * kernel.axes) + 2 * kernel.points
        total += kernel.bytes + 4 * tables * words
    return total + 4 * _PASSES_OF_SOFTMAX * pixels * words


def _bytes_a_second(where: torch.device) -> float:
    """Of a copy: what is read and what is written."""
    here, there = (torch.ones(_COPIED // 4, device=where) for _ in range(2))
    clock, least = _clock(where), np.inf
    for _ in range(5):
        start = clock()
        there.copy_(here)
        least = min(least, clock() - start)
    return 2 * _COPIED / float(least)


def _clock(where: torch.device) -> Callable[[], float]:
    """CPU seconds, or those of the wall once the device has done what it was told."""

    def after() -> float:
        torch.cuda.synchronize(where)
        return time.perf_counter()

    return after if where.type == "cuda" else time.process_time


def _timed(least: dict[str, float], name: str, clock: Callable[[], float], run: Callable[[], _Result]) -> _Result:
    start = clock()
    result = run()
    least[name] = min(least.get(name, np.inf), clock() - start)
    return result
