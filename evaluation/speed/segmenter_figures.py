"""Figures of one image on our segmenter, on per-query autograd and on the official scheme: ratios and floors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from car.options import Precision
from car.segmentation import WorkCounters
from car.text_data import VOC_QUERIES
from car.vocabulary import Vocabulary
from evaluation.random_models import VIT_B16, VIT_L14, Shape
from evaluation.reference.official_scheme import OfficialStep, Unit, counts
from evaluation.speed.op_counter import Counts
from evaluation.speed.roofline import Peaks, Stage
from evaluation.speed.segmenter_roofline import Demand, crop_flop, floors, image_flop
from evaluation.speed.throughput import Throughput
from worker.segmenter import proposals
from worker.segmenter.recurrence import StepTrace
from worker.segmenter.segmenter import Batches

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The image, the models and the precision of one comparison."""

    width: int = 512
    height: int = 384
    queries: int = 10
    survivors: int = 1
    """Queries that step 1 keeps. Images of Pascal VOC show 1.5 of its 20 classes on average."""
    steps: int = 2
    """Maximum steps; a run whose step 2 keeps all its queries ends after two."""
    turns: int = 2
    """Both sides are measured this often, in alternation; the least counts."""
    full: bool = False
    """Run the official scheme to its end instead of computing its time from units."""
    device: Device = "cpu"
    precision: Precision = Precision.FLOAT32
    """Of our models on CUDA, of g's blocks alone on a CPU (see worker.models.weights).
    The official models are float32 on a
    CPU and float16 on CUDA, as the official code loads them."""
    stream: int = 0
    """Images of the throughput run; 0 leaves it out."""
    batches: Batches | None = None
    """None: the device's default."""
    shapes: tuple[Shape, Shape] = (VIT_B16, VIT_L14)
    gain: float = 1.0
    """Multiplies the random weights; see evaluation.random_models."""
    scale: float = 100.0
    """exp(logit_scale). Small models with a high gain need less, or the official scheme's probabilities underflow."""

    def __post_init__(self) -> None:
        if not 1 <= self.survivors <= self.queries <= len(VOC_QUERIES) or self.steps < 1 or self.turns < 1:
            raise ValueError(
                f"needs 1 <= survivors ({self.survivors}) <= queries ({self.queries}) <= {len(VOC_QUERIES)}, "
                "and at least one step and one turn"
            )

    @property
    def name(self) -> str:
        return f"{self.width}x{self.height}, {self.queries} queries"

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)

    @property
    def images_together(self) -> int:
        """Images that fill the device's batches and share their cost; one on a CPU."""
        images = (self.batches or Batches.suited_to(self.torch_device)).images
        return 1 if images == 1 else 2 * images

    @property
    def blocks_dtype(self) -> torch.dtype:
        """The precision of our g's blocks."""
        dtype: torch.dtype = getattr(torch, self.precision)
        return dtype

    @property
    def dtype(self) -> torch.dtype:
        """The precision of everything else of ours."""
        return self.blocks_dtype if self.device == "cuda" else torch.float32

    @property
    def official_dtype(self) -> torch.dtype:
        return torch.float16 if self.device == "cuda" else torch.float32


@dataclass
class Comparison:
    """Seconds and counts of one image: CPU seconds of this process, or wall seconds of finished work on CUDA."""

    setting: Setting
    vocabulary: Vocabulary
    sizes: list[int] = field(default_factory=list)
    """Queries of each step."""
    stages: dict[str, float] = field(default_factory=dict)
    """Ours, without texts."""
    texts_s: float = 0.0
    """Ours, once a vocabulary."""
    work: WorkCounters = field(default_factory=WorkCounters)
    units: dict[Unit, float] = field(default_factory=dict)
    """Seconds of one unit of the official scheme."""
    ours_cams_s: float = 0.0
    autograd_cams_s: float = 0.0
    official_full_s: float | None = None
    """The official scheme run to its end, without the CRF."""
    full_steps: list[OfficialStep] = field(default_factory=list)
    traces: list[StepTrace] = field(default_factory=list)
    """Our steps."""
    counts: Counts = field(default_factory=Counts)
    """Of all images together, with the texts known."""
    text_tokens: tuple[int, int] = (0, 0)
    """Of the vocabulary's texts, embedded once: f's and g's."""
    peaks: Mapping[torch.dtype, Peaks] = field(default_factory=dict)
    """Of this machine in this run, in each precision used."""
    throughput: Throughput | None = None

    @property
    def ours_s(self) -> float:
        """Everything an image costs, CRF included; texts belong to the vocabulary."""
        return sum(self.stages.values())

    @property
    def forwards(self) -> tuple[float, float]:
        """This image's share of the batches of f and of g."""
        together = self.setting.images_together
        f, g = (
            self.counts.convolutions[shape.width, 3, shape.patch, shape.patch] / together
            for shape in self.setting.shapes
        )
        return f, g

    @property
    def unit_counts(self) -> dict[Unit, int]:
        """How often the official scheme runs each unit."""
        return dict(counts(self.sizes, len(self.vocabulary.classifier_templates), len(self.vocabulary.background)))

    @property
    def official_computed_s(self) -> float:
        return sum(self.units[unit] * many for unit, many in self.unit_counts.items())

    @property
    def official_s(self) -> float:
        """Everything the official scheme does for an image; the CRF costs both the same."""
        scheme = self.official_computed_s if self.official_full_s is None else self.official_full_s
        return scheme + self.stages["crf"]

    @property
    def autograd_s(self) -> float:
        """Ours with CAMs by autograd per query and step."""
        return self.ours_s - self.ours_cams_s + self.autograd_cams_s

    @property
    def stages_with_floors(self) -> dict[str, Stage]:
        """Our stages and their floors; `text` is once a vocabulary."""
        least = floors(self._demand)
        return {name: Stage(cost, least.get(name)) for name, cost in ({"text": self.texts_s} | self.stages).items()}

    @property
    def _demand(self) -> Demand:
        setting = self.setting
        last = self.traces[-1].step.queries
        return Demand(
            height=setting.height,
            width=setting.width,
            shapes=setting.shapes,
            weight_bytes=(setting.dtype.itemsize, setting.blocks_dtype.itemsize),
            queries_of_steps=self.sizes,
            survivors=sum(query.kept for query in last),
            products=self.work.vector_jacobian_products,
            crops=self.work.crops_encoded,
            text_tokens=self.text_tokens,
        )

    def to_json(self) -> dict[str, Any]:
        """All figures, ratios first. Each stage's floor is in the precision in which the stage was computed."""
        setting, whole, crf = self.setting, self.ours_s, self.stages["crf"]
        dtypes = {"classifier": setting.blocks_dtype}
        stages = self.stages_with_floors.items()
        return {
            "ratio_official": self.official_s / whole,
            "ratio_official_with_texts": self.official_s / (whole + self.texts_s),
            "ratio_official_without_crf": (self.official_s - crf) / (whole - crf),
            "ratio_autograd": self.autograd_cams_s / self.ours_cams_s,
            "ratio_autograd_whole": self.autograd_s / whole,
            "ratio_crops": self.unit_counts[Unit.CROP] / max(1, self.work.crops_encoded),
            "official_is": "computed from counted units" if self.official_full_s is None else "measured",
            "ours_s": whole,
            "ours_texts_s": self.texts_s,
            "official_s": self.official_s,
            "official_computed_s": self.official_computed_s + crf,
            "autograd_s": self.autograd_s,
            "cams_s": {"ours": self.ours_cams_s, "autograd": self.autograd_cams_s},
            "stages": {name: stage.to_json(self.peaks[dtypes.get(name, setting.dtype)]) for name, stage in stages},
            "counts": {
                "ours": vars(self.work)
                | {"f_forwards": self.forwards[0], "g_forwards": self.forwards[1]}
                | self.counts.per_image(setting.images_together),
                "ours_once": {"texts": self._texts, "tokens": self.text_tokens},
                "official": {str(unit): many for unit, many in self.unit_counts.items()},
            },
            "official_unit_s": {str(unit): cost for unit, cost in self.units.items()},
            "stream": self.throughput.to_json() if self.throughput else None,
            **self._conditions(),
        }

    def _conditions(self) -> dict[str, Any]:
        """The setting, models and machine of the figures."""
        setting = self.setting
        height, width = proposals.padded_size(setting.height, setting.width)
        return {
            "size": [setting.width, setting.height],
            "queries": setting.queries,
            "queries_of_steps": self.sizes,
            "templates": len(self.vocabulary.classifier_templates),
            "device": setting.device,
            "precision": setting.precision.value,
            "official_precision": _name(setting.official_dtype),
            "seconds_are": "CPU seconds" if setting.device == "cpu" else "seconds of finished work",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "peaks": {_name(dtype): peaks.to_json() for dtype, peaks in self.peaks.items()},
            "tera_flop": {
                "f_picture": image_flop(setting.shapes[0], height, width) / 1e12,
                "g_crop": crop_flop(setting.shapes[1]) / 1e12,
            },
        }

    @property
    def _texts(self) -> int:
        vocabulary = self.vocabulary
        return len(vocabulary.background) + self.setting.queries * (2 + len(vocabulary.classifier_templates))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
