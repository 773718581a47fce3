"""What a picture costs the segmenter, per-query autograd and the official scheme: figures, ratios, arithmetic floor."""

from dataclasses import dataclass, field
from typing import Any

import torch

from car.precision import Precision
from car.segmentation import Work
from car.vocabulary import Vocabulary
from car.words import VOC_QUERIES
from evaluation.official_scheme import OfficialStep, Unit, counts
from evaluation.random_models import VIT_B16, VIT_L14, Shape
from worker.segmenter import proposals
from worker.segmenter.recurrence import Look


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is compared."""

    width: int = 512
    height: int = 384
    queries: int = 10
    survivors: int = 1
    """Queries that step 1 keeps. Pascal VOC's pictures show 1.5 of its 20 classes on average."""
    steps: int = 2
    """The most steps; a run in which step 2 keeps what it is given ends after two."""
    turns: int = 2
    """Each side is measured this often, turn about; the least counts."""
    full: bool = False
    """Run the official scheme to its end and do not compute it from its units."""
    precision: Precision = Precision.AUTO
    """Of our g's blocks; all else, and the official scheme, computes in float32, as auto does."""
    shapes: tuple[Shape, Shape] = (VIT_B16, VIT_L14)
    gain: float = 1.0
    """Of the random weights; see evaluation.random_models."""
    scale: float = 100.0
    """exp(logit_scale). Small models of a high gain need less, lest the official scheme's probabilities underflow."""

    def __post_init__(self) -> None:
        if not 1 <= self.survivors <= self.queries <= len(VOC_QUERIES) or self.steps < 1 or self.turns < 1:
            raise ValueError(
                f"needs 1 <= survivors ({self.survivors}) <= queries ({self.queries}) <= {len(VOC_QUERIES)}, "
                f"and at least one step and one turn"
            )


@dataclass
class Comparison:
    """CPU seconds and counts of one picture."""

    setting: Setting
    vocabulary: Vocabulary
    sizes: list[int] = field(default_factory=list)
    """Queries of each step."""
    stages: dict[str, float] = field(default_factory=dict)
    """Ours, without texts."""
    texts_s: float = 0.0
    """Ours, once a vocabulary."""
    work: Work = field(default_factory=Work)
    units: dict[Unit, float] = field(default_factory=dict)
    """The official scheme: one of each."""
    ours_cams_s: float = 0.0
    autograd_cams_s: float = 0.0
    official_full_s: float | None = None
    """The official scheme run to its end, without the CRF."""
    full_steps: list[OfficialStep] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)

    @property
    def ours_cpu_s(self) -> float:
        """Everything a picture costs, CRF included; texts belong to the vocabulary."""
        return sum(self.stages.values())

    @property
    def counted(self) -> dict[Unit, int]:
        """How often the official scheme does each unit."""
        return dict(counts(self.sizes, len(self.vocabulary.classifier_templates), len(self.vocabulary.background)))

    @property
    def crops_of_official(self) -> int:
        return self.counted[Unit.CROP]

    @property
    def official_computed_s(self) -> float:
        return sum(self.units[unit] * many for unit, many in self.counted.items())

    @property
    def official_cpu_s(self) -> float:
        """Everything the official scheme does for a picture; the CRF costs both the same."""
        scheme = self.official_computed_s if self.official_full_s is None else self.official_full_s
        return scheme + self.stages["crf"]

    @property
    def autograd_cpu_s(self) -> float:
        """Ours with CAMs by autograd a query and step."""
        return self.ours_cpu_s - self.ours_cams_s + self.autograd_cams_s

    def to_json(self) -> dict[str, Any]:
        """All figures, ratios first."""
        setting = self.setting
        return {
            "ratio_official": self.official_cpu_s / self.ours_cpu_s,
            "ratio_official_with_texts": self.official_cpu_s / (self.ours_cpu_s + self.texts_s),
            "ratio_official_without_crf": (self.official_cpu_s - self.stages["crf"])
            / (self.ours_cpu_s - self.stages["crf"]),
            "ratio_autograd": self.autograd_cams_s / self.ours_cams_s,
            "ratio_autograd_whole": self.autograd_cpu_s / self.ours_cpu_s,
            "ratio_crops": self.crops_of_official / max(1, self.work.crops_encoded),
            "official_is": "computed from counted units" if self.official_full_s is None else "measured",
            "ours_cpu_s": self.ours_cpu_s,
            "ours_texts_cpu_s": self.texts_s,
            "official_cpu_s": self.official_cpu_s,
            "official_computed_cpu_s": self.official_computed_s + self.stages["crf"],
            "autograd_cpu_s": self.autograd_cpu_s,
            "cams_cpu_s": {"ours": self.ours_cams_s, "autograd": self.autograd_cams_s},
            "counts": {
                "ours": vars(self.work) | {"texts_once": len(self.vocabulary.background) + self._texts()},
                "official": {str(unit): many for unit, many in self.counted.items()},
            },
            "official_unit_cpu_s": {str(unit): cost for unit, cost in self.units.items()},
            "stages": self.stages,
            "size": [setting.width, setting.height],
            "queries": setting.queries,
            "queries_of_steps": self.sizes,
            "templates": len(self.vocabulary.classifier_templates),
            "precision": setting.precision,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "tera_flop": floor(setting),
        }

    def _texts(self) -> int:
        return self.setting.queries * (2 + len(self.vocabulary.classifier_templates))


def forward_flop(shape: Shape, height: int, width: int, blocks: int) -> float:
    """Floating-point operations of a picture's way through so many blocks, two a multiply-add: matrices alone."""
    patches = (height // shape.patch) * (width // shape.patch)
    tokens, c = patches + 1, shape.width
    embedding = 2 * patches * 3 * shape.patch**2 * c
    return float(embedding + blocks * (24 * tokens * c**2 + 4 * tokens**2 * c))


def floor(setting: Setting) -> dict[str, float]:
    """TFLOP of what cannot be saved: f once a picture, g once a distinct crop without its last block."""
    f, g = setting.shapes
    height, width = proposals.padded_size(setting.height, setting.width)
    return {
        "f_picture": forward_flop(f, height, width, f.depth) / 1e12,
        "g_crop": forward_flop(g, g.image_size, g.image_size, g.depth - 1) / 1e12,
    }
