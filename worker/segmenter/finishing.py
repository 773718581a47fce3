"""From the words that survived to masks: what needs no model, so that another process can do it.

Nothing here may import torch: a process that finishes pictures starts in a moment and stays small.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from car import rle
from car.recipe import Mode, Recipe
from car.segmentation import Mask, Segmentation, Source, Step, StopReason, Work
from worker.segmenter import crf
from worker.segmenter.ensembling import Regions, ensemble
from worker.segmenter.sizes import Image, enlarge, enlarge_mask

Clock = Callable[[], float]
"""Seconds from any fixed point, such as time.perf_counter."""


@dataclass(frozen=True)
class Rest:
    """One pass come to rest: the words that survived it, in the order in which it was computed, and its story."""

    labels: tuple[str, ...]
    scores: tuple[float, ...]
    cams: Float[np.ndarray, "n rows columns"]
    """Proposals of the last step at the grid's size, 0..1."""
    bg_factor: float
    steps: tuple[Step, ...]
    """Queries in the order in which the user wrote them."""
    stop_reason: StopReason
    work: Work


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """All that is left to know of a picture once the models have seen it. Pickled it is about as large as `image`."""

    size: tuple[int, int]
    """(height, width) of the user's picture; that of its masks."""
    image: Image
    """The picture as it was segmented: no longer than the recipe's max_side."""
    recipe: Recipe
    rests: tuple[Rest, ...]
    """One pass or two."""
    order: tuple[str, ...]
    """The survivors of all passes, in the order in which the user wrote them."""
    timings: Mapping[str, float]
    """Milliseconds by stage so far; empty where no clock was given."""
    work: Work
    """Of the picture itself; what its passes did is in `rests`."""
    regions: Regions = ()
    """SAM's automatic masks of `image`; none where the recipe has no SAM, or nothing survived."""

    def finish(self, clock: Clock | None = None) -> Segmentation:
        """CAMs to masks at the user's size, run-length coded. Same bits in every process."""
        start = clock() if clock else 0.0
        masks: dict[str, Mask] = {}
        work = self.work
        for rest in self.rests:
            together = self._together(rest)
            work += rest.work + Work(crf_runs=len(together))
            masks |= {mask.label: mask for mask in self._masks(rest, together)}
        timings = dict(self.timings)
        if clock:
            timings["crf_ms"] = (clock() - start) * 1000
        height, width = self.size
        limited = any(rest.stop_reason is StopReason.STEP_LIMIT for rest in self.rests)
        return Segmentation(
            width=width,
            height=height,
            masks=tuple(masks[label] for label in self.order if label in masks),
            steps=tuple(step for rest in self.rests for step in rest.steps),
            stop_reason=StopReason.STEP_LIMIT if limited else self.rests[0].stop_reason,
            timings=timings,
            work=work,
        )

    def _together(self, rest: Rest) -> list[slice]:
        """Which words compete for pixels. Referring expressions may overlap, so each has a CRF of its own."""
        count = len(rest.labels)
        if self.recipe.mode is Mode.SEMANTIC:
            return [slice(count)] if count else []
        return [slice(k, k + 1) for k in range(count)]

    def _masks(self, rest: Rest, together: list[slice]) -> Iterator[Mask]:
        height, width = self.image.shape[:2]
        for some in together:
            cams = np.stack([enlarge(cam, height, width) for cam in rest.cams[some]])
            sharp = crf.sharpen(self.image, cams, self.recipe, bg_factor=rest.bg_factor)
            best, sources = ensemble(sharp, self.regions, self.recipe)
            for label, score, mask, source in zip(rest.labels[some], rest.scores[some], best, sources, strict=True):
                whole = enlarge_mask(mask, self.size)
                if whole.any():
                    yield _mask(label, score, whole, source)


def _mask(label: str, score: float, mask: Bool[np.ndarray, "h w"], source: Source) -> Mask:
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    x, y = int(columns[0]), int(rows[0])
    return Mask(
        label=label,
        score=score,
        area=int(np.count_nonzero(mask)),
        bbox=(x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1),
        rle=rle.encode_coco(mask),
        source=source,
    )
