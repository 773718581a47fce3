"""What the dense CRF of a picture costs, beside pydensecrf: seconds, lattice points, products, bytes, and the floor."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class CrfCost:
    """Figures of one setting. CPU seconds of one thread on the CPU, seconds by CUDA's events on a device."""

    width: int
    height: int
    classes: int
    """Labels with the background."""
    device: str
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
    """Both sides turn about in this process over one made-up picture, with CaR's settings."""
    raise NotImplementedError
