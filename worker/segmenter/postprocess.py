"""From the words that survived to masks: what needs no model, so that another process can do it.

Nothing here may import torch: a process that finishes pictures starts in a moment and stays small.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from car import rle
from car.options import CrfBackend
from car.recipe import Mode, Recipe
from car.segmentation import Mask, MaskSource, Segmentation, Step, StopReason, WorkCounters
from worker.segmenter.crf import dense_crf
from worker.segmenter.crf.arrays import Arrays
from worker.segmenter.crf.dense_crf import LabelGroup
from worker.segmenter.crf.mean_field import Labels
from worker.segmenter.resizing import Image, enlarge_mask
from worker.segmenter.sam.ensembling import Regions, ensemble

Clock = Callable[[], float]
"""Seconds from any fixed point, such as time.perf_counter."""


@dataclass(frozen=True)
class PassResult:
    """One pass come to rest: the words that survived it, in the order in which it was computed, and its story."""

    labels: tuple[str, ...]
    scores: tuple[float, ...]
    cams: Float[np.ndarray, "n rows columns"]
    """Proposals of the last step at the grid's size, 0..1."""
    bg_factor: float
    steps: tuple[Step, ...]
    """Queries in the order in which the user wrote them."""
    stop_reason: StopReason
    work: WorkCounters
    crf_labels: Labels | None = None
    """Who has each pixel, where the CRF was run already."""


@dataclass(frozen=True, kw_only=True)
class PendingSegmentation:
    """All that is left to know of a picture once the models have seen it. Pickled it is about as large as `image`."""

    size: tuple[int, int]
    """(height, width) of the user's picture; that of its masks."""
    image: Image
    """The picture as it was segmented: no longer than the recipe's max_side."""
    recipe: Recipe
    passes: tuple[PassResult, ...]
    """One pass or two."""
    order: tuple[str, ...]
    """The survivors of all passes, in the order in which the user wrote them."""
    timings: Mapping[str, float]
    """Milliseconds by stage so far; empty where no clock was given."""
    work: WorkCounters
    """Of the picture itself; what its passes did is in `rests`."""
    regions: Regions = ()
    """SAM's automatic masks of `image`; none where the recipe has no SAM, or nothing survived."""
    crf_by: CrfBackend = CrfBackend.LATTICE
    """Who computes the CRF, where it was not run already."""

    def with_crf(self, arrays: Arrays | None = None, clock: Clock | None = None) -> "PendingSegmentation":
        """With the CRF run: on a device, where `arrays` are its. What is left then is quick.

        The picture's passes and words share what hangs on the picture alone.
        """
        if all(rest.crf_labels is not None for rest in self.passes):
            return self
        start = clock() if clock else 0.0
        competitions = [LabelGroup(rest.cams, rest.bg_factor) for rest in self.passes]
        sheets = dense_crf.label(
            self.image, competitions, self.recipe, alone=self._alone, by=self.crf_by, arrays=arrays
        )
        rests = tuple(replace(rest, crf_labels=some) for rest, some in zip(self.passes, sheets, strict=True))
        took = {"crf_ms": (clock() - start) * 1000} if clock else {}
        return replace(self, passes=rests, timings=dict(self.timings) | took)

    def finish(self, clock: Clock | None = None) -> Segmentation:
        """CAMs to masks at the user's size, run-length coded. Same bits in every process."""
        start = clock() if clock else 0.0
        masks: dict[str, Mask] = {}
        work = self.work
        for rest in self.with_crf().passes:
            words = len(rest.labels)
            work += rest.work + WorkCounters(crf_runs=words if self._alone else min(1, words))
            masks |= {mask.label: mask for mask in self._masks(rest)}
        timings = dict(self.timings)
        if clock:
            timings["crf_ms"] = timings.get("crf_ms", 0.0) + (clock() - start) * 1000
        height, width = self.size
        limited = any(rest.stop_reason is StopReason.STEP_LIMIT for rest in self.passes)
        return Segmentation(
            width=width,
            height=height,
            masks=tuple(masks[label] for label in self.order if label in masks),
            steps=tuple(step for rest in self.passes for step in rest.steps),
            stop_reason=StopReason.STEP_LIMIT if limited else self.passes[0].stop_reason,
            timings=timings,
            work=work,
        )

    @property
    def _alone(self) -> bool:
        """Whether each word has a CRF of its own, as referring expressions may overlap."""
        return self.recipe.mode is Mode.REFER

    def _masks(self, rest: PassResult) -> Iterator[Mask]:
        """At the user's size, those that are not empty."""
        for label, score, (mask, source) in zip(rest.labels, rest.scores, self._refined(rest), strict=True):
            whole = enlarge_mask(mask, self.size)
            if whole.any():
                yield _mask(label, score, whole, source)

    def _refined(self, rest: PassResult) -> Iterator[tuple[Bool[np.ndarray, "h w"], MaskSource]]:
        """One by one where SAM has no say: a thousand masks of a large picture are a gigabyte."""
        if rest.crf_labels is None:
            raise ValueError("the CRF was not run")
        masks = (dense_crf.mask_of(rest.crf_labels, k, alone=self._alone) for k in range(len(rest.labels)))
        if not self.regions:
            for mask in masks:
                yield mask, MaskSource.CRF
            return
        together = ([mask] for mask in masks) if self._alone else iter([list(masks)] if rest.labels else [])
        for some in together:
            yield from zip(*ensemble(np.stack(some), self.regions, self.recipe), strict=True)


def _mask(label: str, score: float, mask: Bool[np.ndarray, "h w"], source: MaskSource) -> Mask:
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
