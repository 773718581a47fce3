"""The segmenter's time beside the official scheme of the same arithmetic, in one process.

Models of full size have random weights, because speed depends on shapes alone. Scores of random weights have no
meaning, so theta is chosen from the scores of step 1 and keeps exactly `Setting.survivors` queries.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from car.options import Precision
from car.presets import preset
from car.recipe import Recipe
from car.segmentation import WorkCounters
from car.text_data import VOC_QUERIES
from car.vocabulary import Vocabulary
from evaluation.random_models import VIT_B16, VIT_L14, Shape, WordTokenizer, clip
from evaluation.reference.official_encoder import OfficialEncoder
from evaluation.reference.official_scheme import OfficialScheme, Unit, counts
from evaluation.stopwatch import clock_of
from evaluation.synthetic_images import tiled_image
from worker.segmenter.clip.encoder import Encoder
from worker.segmenter.recurrence import StepTrace
from worker.segmenter.segmenter import Batches, Segmenter


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
    """Measurements of both sides, in alternation; the least counts."""
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Precision = Precision.FLOAT32
    """Of our models on CUDA, of g's blocks alone on a CPU (see worker.models.weights). The official models are float32
    on a CPU and float16 on CUDA, as the official code loads them."""
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
        images = (self.batches or Batches.for_device(self.torch_device)).images
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


@dataclass(frozen=True)
class Models:
    """f and g with random weights, in our precision and in the official code's."""

    segmenter: tuple[Encoder, Encoder]
    official: tuple[OfficialEncoder, OfficialEncoder]

    @classmethod
    def load(cls, setting: Setting) -> "Models":
        def pair(dtype: torch.dtype) -> list[Any]:
            options: Any = {"gain": setting.gain, "scale": setting.scale, "device": setting.torch_device}
            return [clip(shape, seed=seed, dtype=dtype, **options) for seed, shape in enumerate(setting.shapes)]

        official = pair(setting.official_dtype)
        own = official if setting.dtype == setting.official_dtype else pair(setting.dtype)
        if setting.blocks_dtype != setting.dtype:  # rounding changes g, which the official side may share
            own = [own[0], pair(setting.dtype)[1]]
        f, g = (Encoder(model, WordTokenizer()) for model in own)
        if setting.blocks_dtype != setting.dtype:
            g.round_blocks(setting.blocks_dtype)
        official_f, official_g = (OfficialEncoder(model, WordTokenizer()) for model in official)
        return cls((f, g), (official_f, official_g))


class Comparison:
    """Seconds of one image: CPU seconds of this process, or wall seconds of finished work on CUDA."""

    def __init__(self, setting: Setting, models: Models) -> None:
        """Embed the texts, choose theta and warm everything up."""
        self.setting, self.models = setting, models
        self.vocabulary = Vocabulary.from_words(VOC_QUERIES[: setting.queries])
        self.image = tiled_image(setting.height, setting.width)
        self.clock = clock_of(setting.torch_device)
        self.segmenter = Segmenter(*models.segmenter, setting.batches, self.clock)
        self.stages: dict[str, float] = {}
        """Ours, without texts."""
        self.units: dict[Unit, float] = {}
        """Seconds of one unit of the official scheme."""
        self.work = WorkCounters()
        self.traces: list[StepTrace] = []
        self.recipe = self._choose_recipe()

    def _choose_recipe(self) -> Recipe:
        """Return the recipe whose theta separates the survivors of step 1 from its other queries."""
        traces, one_step = list[StepTrace](), replace(preset("voc"), max_steps=1)
        (first,) = self.segmenter.segment(
            [self.image], self.vocabulary, one_step, observe=lambda _, trace: traces.append(trace)
        )
        self.texts_s = first.timings["text_ms"] / 1000
        scores = [*sorted((query.score for query in traces[0].step.queries), reverse=True), 0.0]
        theta = (scores[self.setting.survivors - 1] + scores[self.setting.survivors]) / 2
        return replace(one_step, theta=theta, max_steps=self.setting.steps)

    def measure_segmenter(self) -> None:
        """Measure our side once."""
        traces, together = list[StepTrace](), self.setting.images_together

        def observe(index: int, trace: StepTrace) -> None:
            if index == 0:
                traces.append(trace)

        done = self.segmenter.segment([self.image] * together, self.vocabulary, self.recipe, observe=observe)
        stages = {
            name.removesuffix("_ms"): sum(result.timings.get(name, 0.0) for result in done) / together / 1000
            for name in done[0].timings
            if name != "text_ms"
        }
        if not self.stages or sum(stages.values()) < self.ours_s:
            self.stages = stages
        self.work, self.traces = done[0].work, traces

    def official_scheme(self) -> OfficialScheme:
        return OfficialScheme(*self.models.official, self.image, self.vocabulary, self.recipe, self.clock)

    def measure_units(self, scheme: OfficialScheme) -> None:
        """Time each unit in the batch size of the official scheme: singly, or one template's texts and crops."""
        scheme.done.clear()
        scheme.spent.clear()
        words = [label.prompts[0] for label in self.vocabulary.labels]
        block, attention, grid = scheme.encode_image()
        texts = scheme.proposal_texts(words)
        for index in range(min(3, len(words))):
            cam, own = scheme.query_cam(block, index, texts, scheme.proposal_texts(self.vocabulary.background[:1]))
            scheme.refine(cam, own, attention, grid)
        crops = scheme.prompted_crops(self.traces[0].cams)
        scheme.classifier_texts([self.vocabulary.classifier_templates[0].format(word) for word in words])
        scheme.encode_crops(crops)
        for unit, count in scheme.done.items():
            seconds = scheme.spent[unit] / count
            self.units[unit] = min(seconds, self.units.get(unit, seconds))

    @property
    def sizes(self) -> list[int]:
        """Queries of each step."""
        return [len(trace.step.queries) for trace in self.traces]

    @property
    def ours_s(self) -> float:
        """All stages of an image, CRF included, texts excluded: they belong to the vocabulary."""
        return sum(self.stages.values())

    @property
    def unit_counts(self) -> dict[Unit, int]:
        """How often the official scheme runs each unit."""
        return dict(counts(self.sizes, len(self.vocabulary.classifier_templates), len(self.vocabulary.background)))

    @property
    def official_s(self) -> float:
        """The official scheme for an image, from counted units; the CRF takes both sides the same time."""
        return sum(self.units[unit] * count for unit, count in self.unit_counts.items()) + self.stages["crf"]

    def to_json(self) -> dict[str, Any]:
        """Return all figures, ratios first."""
        setting = self.setting
        return {
            "ratio_official": self.official_s / self.ours_s,
            "ratio_official_with_texts": self.official_s / (self.ours_s + self.texts_s),
            "ours_s": self.ours_s,
            "ours_texts_s": self.texts_s,
            "official_s": self.official_s,
            "images_per_s": 1 / self.ours_s,
            "stages": {name: {"seconds": spent} for name, spent in ({"text": self.texts_s} | self.stages).items()},
            "official_unit_s": {str(unit): spent for unit, spent in self.units.items()},
            "size": [setting.width, setting.height],
            "queries": setting.queries,
            "queries_of_steps": self.sizes,
            "templates": len(self.vocabulary.classifier_templates),
            "device": setting.device,
            "precision": setting.precision.value,
            "official_precision": str(setting.official_dtype).removeprefix("torch."),
            "seconds_are": "CPU seconds" if setting.device == "cpu" else "seconds of finished work",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
