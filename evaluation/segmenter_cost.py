"""What a picture costs the segmenter, per-query autograd and the official scheme: figures, ratios, floors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from car.precision import Precision
from car.segmentation import Work
from car.vocabulary import Vocabulary
from car.words import VOC_QUERIES
from evaluation.counting import Counts
from evaluation.floor import Peaks, Stage
from evaluation.official_scheme import OfficialStep, Unit, counts
from evaluation.prompts_cost import PromptsCost
from evaluation.random_models import VIT_B16, VIT_L14, Shape
from evaluation.segmenter_floor import Demand, crop_flop, floors, picture_flop
from evaluation.stream import Stream
from worker.segmenter import proposals
from worker.segmenter.recurrence import Look
from worker.segmenter.segmenter import Batches

Device = Literal["cpu", "cuda"]


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
    device: Device = "cpu"
    precision: Precision = Precision.FLOAT32
    """Of our models on CUDA; on a CPU of g's blocks alone (see worker.weights). The official ones are float32 on a CPU
    and float16 on CUDA, as the official code loads them."""
    stream: int = 0
    """So many pictures one after the other, for images a second; 0: none."""
    batches: Batches | None = None
    """None: as suits the device."""
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

    @property
    def name(self) -> str:
        return f"{self.width}x{self.height}, {self.queries} queries"

    @property
    def where(self) -> torch.device:
        return torch.device(self.device)

    @property
    def company(self) -> int:
        """So many pictures fill the batches that a device sees at once; each bears its part. On a CPU one is alone."""
        images = (self.batches or Batches.suited_to(self.where)).images
        return 1 if images == 1 else 2 * images

    @property
    def blocks_dtype(self) -> torch.dtype:
        """Of our g's blocks."""
        dtype: torch.dtype = getattr(torch, self.precision)
        return dtype

    @property
    def dtype(self) -> torch.dtype:
        """Of all else of ours."""
        return self.blocks_dtype if self.device == "cuda" else torch.float32

    @property
    def official_dtype(self) -> torch.dtype:
        return torch.float16 if self.device == "cuda" else torch.float32


@dataclass
class Comparison:
    """Seconds and counts of one picture: CPU seconds of this process, or on CUDA those that finished work took."""

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
    counted_ours: Counts = field(default_factory=Counts)
    """Ours, texts known."""
    forwards: tuple[float, float] = (0.0, 0.0)
    """Of f and of g, each of a batch, of which this picture has a part where others share it."""
    text_tokens: tuple[int, int] = (0, 0)
    """Of the vocabulary's texts, once: f's and g's."""
    peaks: Mapping[torch.dtype, Peaks] = field(default_factory=dict)
    """Of the machine in this run, in each precision that something was computed in."""
    stream: Stream | None = None
    prompts: PromptsCost | None = None
    """What g is shown, drawn and cropped: on masks of one soft spot each, which random models do not make."""

    @property
    def ours_s(self) -> float:
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
    def official_s(self) -> float:
        """Everything the official scheme does for a picture; the CRF costs both the same."""
        scheme = self.official_computed_s if self.official_full_s is None else self.official_full_s
        return scheme + self.stages["crf"]

    @property
    def autograd_s(self) -> float:
        """Ours with CAMs by autograd a query and step."""
        return self.ours_s - self.ours_cams_s + self.autograd_cams_s

    @property
    def told(self) -> dict[str, Stage]:
        """Our stages beside their floors; `text` is once a vocabulary."""
        least = floors(self._demand)
        return {name: Stage(cost, least.get(name)) for name, cost in ({"text": self.texts_s} | self.stages).items()}

    def stages_beside_floors(self) -> dict[str, dict[str, Any]]:
        """Each stage as JSON has it, its floor in the precision in which it was computed."""
        setting = self.setting
        dtypes = {"classifier": setting.blocks_dtype}
        return {name: stage.to_json(self.peaks[dtypes.get(name, setting.dtype)]) for name, stage in self.told.items()}

    @property
    def _demand(self) -> Demand:
        setting = self.setting
        last = self.looks[-1].step.queries
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
        """All figures, ratios first."""
        whole, crf = self.ours_s, self.stages["crf"]
        return {
            "ratio_official": self.official_s / whole,
            "ratio_official_with_texts": self.official_s / (whole + self.texts_s),
            "ratio_official_without_crf": (self.official_s - crf) / (whole - crf),
            "ratio_autograd": self.autograd_cams_s / self.ours_cams_s,
            "ratio_autograd_whole": self.autograd_s / whole,
            "ratio_crops": self.crops_of_official / max(1, self.work.crops_encoded),
            "official_is": "computed from counted units" if self.official_full_s is None else "measured",
            "ours_s": whole,
            "ours_texts_s": self.texts_s,
            "official_s": self.official_s,
            "official_computed_s": self.official_computed_s + crf,
            "autograd_s": self.autograd_s,
            "cams_s": {"ours": self.ours_cams_s, "autograd": self.autograd_cams_s},
            "stages": self.stages_beside_floors(),
            "counts": {
                "ours": vars(self.work)
                | {"f_forwards": self.forwards[0], "g_forwards": self.forwards[1]}
                | self.counted_ours.to_json(),
                "ours_once": {"texts": len(self.vocabulary.background) + self._texts(), "tokens": self.text_tokens},
                "official": {str(unit): many for unit, many in self.counted.items()},
            },
            "official_unit_s": {str(unit): cost for unit, cost in self.units.items()},
            "stream": self.stream.to_json() if self.stream else None,
            "prompts": self.prompts.to_json() if self.prompts else None,
            **self._run(),
        }

    def _run(self) -> dict[str, Any]:
        """What the figures were taken of."""
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
                "f_picture": picture_flop(setting.shapes[0], height, width) / 1e12,
                "g_crop": crop_flop(setting.shapes[1]) / 1e12,
            },
        }

    def _texts(self) -> int:
        return self.setting.queries * (2 + len(self.vocabulary.classifier_templates))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
