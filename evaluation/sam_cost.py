"""What SAM's automatic masks cost, ours and the official generator's side by side, by stage, beside the arithmetic."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class SamCost:
    """Of one picture. Stages are encode, decode, postprocess, nms and ensemble, in seconds; see `unit`."""

    sizes: str
    width: int
    height: int
    points_per_side: int
    device: str
    """Its name."""
    precision: str
    """In which ours ran; the official generator is float32."""
    turns: int
    unit: str
    """"CPU s" of this process on a CPU, "s" of the clock on CUDA."""
    ours_s: Mapping[str, float]
    official_s: Mapping[str, float]
    counts: Mapping[str, Mapping[str, int]]
    """ours, official: how often, how many, how many bytes."""
    tera_flop: Mapping[str, float]
    """Of matrices: what cannot be saved ("encode", "decode"), and what the package computes ("official_decode")."""
    gemm_tera_flop_per_s: float
    """What large square matrices reach on this device in this precision, measured in the same run."""
    matched_share: float
    """Of the official generator's masks, those that ours has too at an IoU of 0.98."""

    @property
    def floor_s(self) -> float:
        """No implementation of these matrices is faster at the measured rate."""
        return (self.tera_flop["encode"] + self.tera_flop["decode"]) / self.gemm_tera_flop_per_s

    def to_json(self) -> dict[str, Any]:
        ours, official = sum(self.ours_s.values()), sum(self.official_s.values())
        ratios = {"ratio_official": official / ours, "floor_s": self.floor_s, "time_by_floor": ours / self.floor_s}
        return ratios | asdict(self)


def measure_sam(sizes: str, width: int, height: int, points_per_side: int, device: str, turns: int) -> SamCost:
    """`sizes`: tiny, vit_b, vit_l or vit_h. Raises: ValueError for others."""
    raise NotImplementedError
