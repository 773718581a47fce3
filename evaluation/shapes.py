"""CaR on held-out scenes of the shapes world: mIoU with and without the recurrence, with and without SAM."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from car import rle
from car.recipe import Recipe
from car.segmentation import MaskSource, Segmentation
from car.vocabulary import Vocabulary
from demo.scenes import WORDS, Scene
from evaluation.metrics import ConfusionMatrix, boundary_f, boundary_iou
from worker.segmenter.segmenter import Segmenter

Progress = Callable[[int], None]
"""Called with the number of scenes done."""


@dataclass(frozen=True)
class ClassResult:
    name: str
    iou: float
    iou_one_step: float | None
    pixels: int
    """True pixels of the class."""


_ONE_PIXEL = 0.004
"""Share of a scene's diagonal that, rounded up, is one pixel."""


@dataclass(frozen=True)
class Borders:
    """Agreement of masks and of their boundaries."""

    miou: float
    boundary_f: float
    boundary_f_fine: float
    boundary_iou: float


@dataclass(frozen=True)
class ShapesResult:
    """Figures of one run. mIoU counts the background as a class and leaves out classes that no scene shows."""

    scenes: int
    miou: float
    miou_one_step: float | None
    """After step 1 with every word kept; None if it was not requested."""
    boundary_f: float
    """Mean over the words present in each scene, with a tolerance of 0.8 % of the diagonal, two pixels."""
    boundary_f_fine: float
    """The same with half the tolerance, one pixel."""
    boundary_iou: float
    """Mean over the same words: IoU of the inner boundaries, two pixels wide."""
    precision: float
    """Share of the predicted words that are present, over all scenes."""
    recall: float
    """Share of the present words that were predicted."""
    mean_steps: float
    per_class: tuple[ClassResult, ...]
    sam_share: float | None = None
    """Share of the masks that are SAM's; None without SAM."""
    without_sam: Borders | None = None
    """The same recurrences postprocessed without SAM; None if the recipe has none."""


def evaluate(
    segmenter: Segmenter,
    scenes: Sequence[Scene],
    recipe: Recipe,
    *,
    vocabulary: Vocabulary | None = None,
    one_step: bool = True,
    progress: Progress | None = None,
) -> ShapesResult:
    """Segment every scene with the whole vocabulary (by default all of `WORDS`) and compare with its ground truth."""
    vocabulary = vocabulary or Vocabulary.from_words(WORDS)
    first = ConfusionMatrix(len(WORDS) + 1)
    tally, plain = _Tally(), _Tally()
    for done, scene in enumerate(scenes, start=1):
        if recipe.sam:
            (pending,) = segmenter.recur([scene.image], vocabulary, recipe)
            result = pending.finish()
            plain.add(scene, replace(pending, regions=()).finish())
        else:
            (result,) = segmenter.segment([scene.image], vocabulary, recipe)
        tally.add(scene, result)
        if one_step:
            (rough,) = segmenter.segment([scene.image], vocabulary, without_recurrence(replace(recipe, sam=False)))
            first.add(scene.labels, label_map(rough, WORDS))
        if progress is not None:
            progress(done)
    total = tally.result(first if one_step else None)
    return replace(total, sam_share=tally.sam_share, without_sam=plain.borders) if recipe.sam else total


def without_recurrence(recipe: Recipe) -> Recipe:
    """Return the baseline of the paper's Table 2: one step that drops no word, as every score is above 0."""
    return replace(recipe, max_steps=1, theta=0.0)


def label_map(segmentation: Segmentation, names: Sequence[str]) -> Int64[np.ndarray, "h w"]:
    """Draw masks by ascending score: 0 background, k the label `names[k - 1]`. Other labels are left out."""
    index = {name: k for k, name in enumerate(names, start=1)}
    painted = np.zeros((segmentation.height, segmentation.width), np.int64)
    for mask in sorted(segmentation.masks, key=lambda mask: mask.score):
        if mask.label in index and mask.score > 0:
            painted[rle.decode_coco(mask.rle)] = index[mask.label]
    return painted


class _Tally:
    """Sums over scenes."""

    def __init__(self) -> None:
        self.true_words = self.predicted_words = self.right_words = self.steps = self.scenes = self.by_sam = 0
        self.edges: list[float] = []
        self.fine_edges: list[float] = []
        self.rims: list[float] = []
        self.pixels = ConfusionMatrix(len(WORDS) + 1)

    def add(self, scene: Scene, predicted: Segmentation) -> None:
        names = {mask.label for mask in predicted.masks}
        self.scenes += 1
        self.true_words += len(scene.words)
        self.predicted_words += len(names)
        self.right_words += len(names & set(scene.words))
        self.steps += len(predicted.steps)
        self.by_sam += sum(mask.source is MaskSource.SAM for mask in predicted.masks)
        painted = label_map(predicted, WORDS)
        self.pixels.add(scene.labels, painted)
        for k in (WORDS.index(word) + 1 for word in scene.words):
            truth, predicted_mask = scene.labels == k, painted == k
            self.edges.append(boundary_f(truth, predicted_mask))
            self.fine_edges.append(boundary_f(truth, predicted_mask, share=_ONE_PIXEL))
            self.rims.append(boundary_iou(truth, predicted_mask))

    @property
    def sam_share(self) -> float:
        return self.by_sam / max(1, self.predicted_words)

    @property
    def borders(self) -> Borders:
        edges = [float(np.mean(values)) if values else np.nan for values in (self.edges, self.fine_edges, self.rims)]
        return Borders(self.pixels.miou(), *edges)

    def result(self, first: ConfusionMatrix | None) -> ShapesResult:
        return ShapesResult(
            scenes=self.scenes,
            **vars(self.borders),
            miou_one_step=None if first is None else first.miou(),
            precision=self.right_words / max(1, self.predicted_words),
            recall=self.right_words / max(1, self.true_words),
            mean_steps=self.steps / max(1, self.scenes),
            per_class=tuple(_per_class(self.pixels, first)),
        )


def _per_class(full: ConfusionMatrix, first: ConfusionMatrix | None) -> Iterable[ClassResult]:
    iou, pixels = full.iou(), full.counts.sum(1)
    rough = None if first is None else first.iou()
    for k, name in enumerate(("background", *WORDS)):
        if pixels[k]:
            yield ClassResult(name, float(iou[k]), None if rough is None else float(rough[k]), int(pixels[k]))
