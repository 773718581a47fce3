"""Postprocessing: from the queries that survived to masks. It needs no model, so another process can do it.

Nothing here may import torch: a process that postprocesses starts quickly and stays small.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool

from car import rle
from car.options import CrfBackend
from car.recipe import Mode, Recipe
from car.segmentation import Mask, MaskSource, Segmentation, StopReason, WorkCounters
from worker.segmenter.crf import dense_crf
from worker.segmenter.crf.arrays import Arrays
from worker.segmenter.crf.dense_crf import LabelGroup
from worker.segmenter.passes import PassResult
from worker.segmenter.resizing import Image, enlarge_mask
from worker.segmenter.sam.ensembling import Regions, ensemble

Clock = Callable[[], float]
"""Returns seconds from any fixed point, such as time.perf_counter."""


@dataclass
class Stopwatch:
    """Milliseconds of one image by stage; empty without a clock."""

    clock: Clock | None
    timings: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        start = self.clock() if self.clock else 0.0
        yield
        if self.clock:
            self.timings[stage] = self.timings.get(stage, 0.0) + (self.clock() - start) * 1000


@dataclass(frozen=True, kw_only=True)
class PendingSegmentation:
    """An image after the models have seen it. Pickled it is about as large as `image`."""

    size: tuple[int, int]
    """(height, width) of the user's image and of its masks."""
    image: Image
    """The image as it was segmented: no longer than the recipe's max_side."""
    recipe: Recipe
    passes: tuple[PassResult, ...]
    """One pass or two, with queries in the order in which the user wrote them."""
    order: tuple[str, ...]
    """The survivors of all passes, in the order in which the user wrote them."""
    timings: Mapping[str, float]
    """Milliseconds by stage so far; empty without a clock."""
    work: WorkCounters
    """Counters of the image itself; `passes` have their own."""
    regions: Regions = ()
    """SAM's automatic masks of `image`; none if the recipe has no SAM or nothing survived."""
    crf_backend: CrfBackend = CrfBackend.LATTICE
    """Computes the CRF unless it was run already."""

    def with_crf(self, arrays: Arrays | None = None, clock: Clock | None = None) -> "PendingSegmentation":
        """Return a copy with the CRF run, on the device of `arrays` if they are given.

        What depends on the image alone is shared by all its passes and labels.
        """
        if all(result.crf_labels is not None for result in self.passes):
            return self
        stopwatch = Stopwatch(clock, dict(self.timings))
        groups = [LabelGroup(result.cams, result.bg_factor) for result in self.passes]
        with stopwatch.measure("crf_ms"):
            labelings = dense_crf.label(
                self.image, groups, self.recipe, independent=self._independent, backend=self.crf_backend, arrays=arrays
            )
        passes = zip(self.passes, labelings, strict=True)
        labeled = tuple(replace(result, crf_labels=labels) for result, labels in passes)
        return replace(self, passes=labeled, timings=stopwatch.timings)

    def finish(self, clock: Clock | None = None) -> Segmentation:
        """Turn CAMs into run-length coded masks at the user's size. The bits are the same in every process."""
        stopwatch, work = Stopwatch(clock, dict(self.timings)), self.work
        masks: dict[str, Mask] = {}
        with stopwatch.measure("crf_ms"):
            for result in self.with_crf().passes:
                labels = len(result.labels)
                work += result.work + WorkCounters(crf_runs=labels if self._independent else min(1, labels))
                masks |= {mask.label: mask for mask in self._masks(result)}
        limited = any(result.stop_reason is StopReason.STEP_LIMIT for result in self.passes)
        return Segmentation(
            width=self.size[1],
            height=self.size[0],
            masks=tuple(masks[label] for label in self.order if label in masks),
            steps=tuple(step for result in self.passes for step in result.steps),
            stop_reason=StopReason.STEP_LIMIT if limited else self.passes[0].stop_reason,
            timings=stopwatch.timings,
            work=work,
        )

    @property
    def _independent(self) -> bool:
        """Whether each label has a CRF of its own, because referring expressions may overlap."""
        return self.recipe.mode is Mode.REFER

    def _masks(self, result: PassResult) -> Iterator[Mask]:
        """Yield the masks that are not empty at the user's size."""
        for label, score, (small_mask, source) in zip(result.labels, result.scores, self._refined(result), strict=True):
            mask = enlarge_mask(small_mask, self.size)
            if mask.any():
                columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
                x, y = int(columns[0]), int(rows[0])
                yield Mask(
                    label=label,
                    score=score,
                    area=int(np.count_nonzero(mask)),
                    bbox=(x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1),
                    rle=rle.encode_coco(mask),
                    source=source,
                )

    def _refined(self, result: PassResult) -> Iterator[tuple[Bool[np.ndarray, "h w"], MaskSource]]:
        """Yield each label's mask, one at a time if it can: a thousand masks of a large image are a gigabyte."""
        if result.crf_labels is None:
            raise ValueError("the CRF was not run")
        masks = (
            dense_crf.extract_mask(result.crf_labels, k, independent=self._independent)
            for k in range(len(result.labels))
        )
        single = self._independent or not self.regions
        groups = ([mask] for mask in masks) if single else iter([list(masks)] if result.labels else [])
        for group in groups:
            yield from zip(*ensemble(np.stack(group), self.regions, self.recipe), strict=True)
