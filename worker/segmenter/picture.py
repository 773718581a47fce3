"""One picture on its way: the size it is segmented at, the masks and steps it has so far, its result."""

import math
from dataclasses import dataclass, field
from functools import reduce
from operator import add

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from car import rle
from car.recipe import Mode, Recipe
from car.segmentation import Mask, Segmentation, Step, StopReason, Work
from car.vocabulary import Vocabulary
from worker.segmenter import crf, proposals
from worker.segmenter.plans import Plan, in_order_of
from worker.segmenter.proposals import Encoded
from worker.segmenter.recurrence import Survivors

Image = UInt8[np.ndarray, "_ _ 3"]


@dataclass
class Picture:
    """Over one pass or two."""

    index: int
    size: tuple[int, int]
    """(height, width) of the user's picture; that of its masks."""
    image: Image
    """The picture as it is segmented: no longer than the recipe's max_side."""
    encoded: Encoded
    masks: dict[str, Mask] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    stops: list[StopReason] = field(default_factory=list)
    work: list[Work] = field(default_factory=lambda: [Work(proposal_forwards=1)])

    @property
    def pixel(self) -> float:
        """Pixels of the user's picture to one of `image`."""
        return math.prod(self.size) / math.prod(self.image.shape[:2])

    def finish(self, plan: Plan, rest: Survivors, recipe: Recipe) -> None:
        """Sharpen the surviving CAMs into masks and take down what the pass did."""
        height, width = self.image.shape[:2]
        cams = [proposals.enlarge(cam, height, width) for cam in rest.cams]
        # Referring expressions may overlap, so each has a CRF of its own.
        together = [cams] if recipe.mode is Mode.SEMANTIC and cams else [[cam] for cam in cams]
        sharp = [
            mask
            for some in together
            for mask in crf.sharpen(self.image, np.stack(some), recipe, bg_factor=plan.bg_factor)
        ]
        for index, score, mask in zip(rest.indices, rest.scores, sharp, strict=True):
            label = plan.vocabulary.labels[index].name
            whole = _enlarged(mask, self.size)
            if whole.any():
                self.masks[label] = _mask(label, score, whole)
        self.steps += rest.steps
        self.stops.append(rest.stop_reason)
        self.work.append(Work(crops_encoded=rest.crops_encoded, crops_reused=rest.crops_reused, crf_runs=len(together)))

    def result(self, vocabulary: Vocabulary, timings: dict[str, float]) -> Segmentation:
        height, width = self.size
        limited = StopReason.STEP_LIMIT in self.stops
        return Segmentation(
            width=width,
            height=height,
            masks=tuple(self.masks[name] for name in vocabulary.names if name in self.masks),
            steps=tuple(in_order_of(step, vocabulary) for step in self.steps),
            stop_reason=StopReason.STEP_LIMIT if limited else self.stops[0],
            timings=dict(timings),
            work=reduce(add, self.work) + Work(vector_jacobian_products=self.encoded.products),
        )


def shrunk(image: Image, max_side: int) -> Image:
    """The picture with its longer side at most `max_side`; 0 leaves it as it is."""
    height, width = image.shape[:2]
    share = max_side / max(height, width)
    if not max_side or share >= 1:
        return image
    to = (max(1, round(width * share)), max(1, round(height * share)))
    return cv2.resize(image, to, interpolation=cv2.INTER_AREA)


def _enlarged(mask: Bool[np.ndarray, "h w"], size: tuple[int, int]) -> Bool[np.ndarray, "_ _"]:
    """The mask at (height, width), with smooth borders; disjoint masks stay disjoint, as none takes a half."""
    if mask.shape == size:
        return mask
    whole: Bool[np.ndarray, "_ _"] = cv2.resize(mask.astype(np.float32), size[::-1]) > 0.5  # noqa: PLR2004 - a half
    return whole


def _mask(label: str, score: float, mask: Bool[np.ndarray, "h w"]) -> Mask:
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    x, y = int(columns[0]), int(rows[0])
    return Mask(
        label=label,
        score=score,
        area=int(np.count_nonzero(mask)),
        bbox=(x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1),
        rle=rle.encode_coco(mask),
    )
