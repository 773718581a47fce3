"""The segmenter: CaR from images to masks.

`Segmenter.segment` does everything. `Segmenter.recur` does the part that needs the models, and its results are finished
on any CPU.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from car.options import CrfBackend
from car.recipe import Arithmetic, Recipe
from car.segmentation import Segmentation, WorkCounters
from car.vocabulary import Vocabulary
from worker.segmenter import classifier, proposals
from worker.segmenter.batch_scheduler import BatchScheduler
from worker.segmenter.classifier import Crops
from worker.segmenter.clip.encoder import Encoder
from worker.segmenter.clip.texts import Texts, embed
from worker.segmenter.crf.dense_crf import import_pydensecrf
from worker.segmenter.crf.device_arrays import DeviceArrays
from worker.segmenter.passes import PassResult, build_passes, canonical_order, reorder_step
from worker.segmenter.postprocess import Clock, PendingSegmentation, Stopwatch
from worker.segmenter.proposals import EncodedImage
from worker.segmenter.recurrence import RecurrenceInput, StepTrace, recur
from worker.segmenter.requests import Recurrence, SegmentRequest, StartedRequest
from worker.segmenter.resizing import Image, shrink, shrunk_size
from worker.segmenter.sam.ensembling import FindRegions, Regions

Observe = Callable[[int, StepTrace], None]
"""Called with an image's index and each step of its recurrence, once the recurrence has ended."""

_MAX_VOCABULARIES = 8


@dataclass(frozen=True)
class Batches:
    """The batch sizes of f (images) and g (crops).

    A result never depends on the other images of a batch: shared batches are always padded to their size, and with
    `images` 1 a batch holds crops of one image alone.
    """

    images: int
    crops: int

    @classmethod
    def for_device(cls, device: torch.device) -> "Batches":
        """Return sizes that keep the device busy."""
        return cls(images=8, crops=64) if device.type == "cuda" else cls(images=1, crops=4)


@dataclass
class Segmenter:
    """A pair of CLIPs that turns images and vocabularies into masks.

    Between calls it keeps the text embeddings of the last vocabularies and nothing else.
    """

    proposal: Encoder
    classifier: Encoder
    batches: Batches | None = None
    clock: Clock | None = None
    sam: FindRegions | None = None
    """Called only for recipes with sam=on."""
    crf_backend: CrfBackend = CrfBackend.LATTICE
    """On CUDA the lattices run on the device, before `recur` returns."""
    _texts: dict[tuple[str, str], Texts] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Raises: ReferenceMissingError."""
        if self.crf_backend is CrfBackend.PYDENSECRF:
            import_pydensecrf()

    def segment(
        self, images: Sequence[Image], vocabulary: Vocabulary, recipe: Recipe, *, observe: Observe | None = None
    ) -> list[Segmentation]:
        """Return the masks of RGB images of any sizes, in the given order.

        Raises:
            VocabularyError: a text has more tokens than CLIP reads.
            ValueError: an array is not an RGB image, or the recipe has sam=on and there is no SAM.

        """
        return [pending.finish(self.clock) for pending in self.recur(images, vocabulary, recipe, observe=observe)]

    def recur(
        self, images: Sequence[Image], vocabulary: Vocabulary, recipe: Recipe, *, observe: Observe | None = None
    ) -> list[PendingSegmentation]:
        """Do the part of `segment` that needs the models.

        The rest (CRF and run-length coding) can run in any thread or process while the models see the next images.

        Raises: see `segment`.
        """
        requests = [
            SegmentRequest(index, image, vocabulary, recipe, observe and partial(observe, index))
            for index, image in enumerate(images)
        ]
        for request in requests:
            self._check(request)
        results: dict[int, PendingSegmentation] = {}
        for index, outcome in self.scheduler().run(requests):
            if isinstance(outcome, Exception):
                raise outcome
            if outcome is not None:
                results[index] = outcome
        return [results[index] for index in range(len(images))]

    def scheduler(self, *, capacity: int = 0) -> BatchScheduler[PendingSegmentation]:
        """Return a scheduler for images that arrive one by one, each with its own vocabulary and recipe."""
        batches = self.batches or Batches.for_device(self.proposal.device)
        return BatchScheduler(self, images=batches.images, crops=batches.crops, capacity=capacity, clock=self.clock)

    @staticmethod
    def kind(request: SegmentRequest) -> Hashable:
        """See ImageModel."""
        height, width = request.image.shape[:2]
        size = proposals.padded_size(*shrunk_size(height, width, request.recipe.max_side))
        return size, request.recipe.cam, request.recipe.position_rounding

    def begin(
        self, requests: Sequence[SegmentRequest], *, batch_size: int
    ) -> list[StartedRequest[PendingSegmentation]]:
        """See ImageModel."""
        for request in requests:
            self._check(request)
        images = [shrink(request.image, request.recipe.max_side) for request in requests]
        encodings = proposals.encode(self.proposal, images, requests[0].recipe, batch_size=batch_size)
        started = []
        for request, image, encoded in zip(requests, images, encodings, strict=True):
            stopwatch = Stopwatch(self.clock, defaultdict(float))
            encoder = _CropEncoder(self.classifier, request.recipe.classifier_depth, request.recipe.position_rounding)
            recurrence = self._recurrence(request, image, encoded, stopwatch)
            started.append(StartedRequest(recurrence, encoder, stopwatch.timings))
        return started

    def _check(self, request: SegmentRequest) -> None:
        image = request.image
        if request.recipe.sam and self.sam is None:
            raise ValueError("the recipe has sam=on, but the segmenter has no SAM")
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:  # noqa: PLR2004
            raise ValueError(f"an image must be uint8 (h, w, 3), got {image.dtype} {image.shape}")

    def _recurrence(
        self, request: SegmentRequest, image: Image, encoded: EncodedImage, stopwatch: Stopwatch
    ) -> Recurrence[PendingSegmentation]:
        """Run all passes over an image, then SAM and, on CUDA, the CRF. `image` has the recipe's max_side."""
        vocabulary, recipe, device = request.vocabulary, request.recipe, self.proposal.device
        passes, traces = list[PassResult](), list[StepTrace]()
        for spec in build_passes(canonical_order(vocabulary, recipe), recipe):
            with stopwatch.measure("text_ms"):
                texts = self._embed(spec.vocabulary, recipe)
            inputs = RecurrenceInput(
                image=image,
                encoded=encoded,
                spec=spec,
                texts=texts,
                recipe=recipe,
                scales=(self.proposal.scale, self.classifier.scale),
                crop_size=self.classifier.image_size,
                area_scale=math.prod(request.image.shape[:2]) / math.prod(image.shape[:2]),
                observe=traces.append if request.observe else None,
            )
            result = yield from _timed(recur(inputs), stopwatch)
            passes.append(replace(result, steps=tuple(reorder_step(step, vocabulary) for step in result.steps)))
        survivors = {label for result in passes for label in result.labels}
        regions: Regions = ()
        if recipe.sam and self.sam is not None:
            with stopwatch.measure("sam_ms"):
                regions = self.sam(image, recipe) if survivors else ()
        if request.observe is not None:
            for trace in traces:
                request.observe(_reorder_trace(trace, vocabulary))
        pending = PendingSegmentation(
            size=request.image.shape[:2],
            image=image,
            recipe=recipe,
            passes=tuple(passes),
            order=tuple(name for name in vocabulary.names if name in survivors),
            timings=dict(stopwatch.timings),
            work=WorkCounters(proposal_forwards=1, vector_jacobian_products=encoded.products),
            regions=regions,
            crf_backend=self.crf_backend,
        )
        if device.type != "cuda" or self.crf_backend is CrfBackend.PYDENSECRF:
            return pending
        return pending.with_crf(DeviceArrays(device), self.clock)

    def _embed(self, vocabulary: Vocabulary, recipe: Recipe) -> Texts:
        key = (vocabulary.digest, str(recipe.refer_filter))
        if key not in self._texts:
            while len(self._texts) >= _MAX_VOCABULARIES:
                del self._texts[next(iter(self._texts))]
            self._texts[key] = embed(self.proposal, self.classifier, vocabulary, recipe)
        return self._texts[key]


@dataclass(frozen=True)
class _CropEncoder:
    """g with the recipe's fields that change its embeddings."""

    encoder: Encoder
    depth: Arithmetic
    rounding: Arithmetic

    def encode(self, crops: Crops, *, batch_size: int, padded: bool) -> Float[Tensor, "m d"]:
        recipe = replace(Recipe(), classifier_depth=self.depth, position_rounding=self.rounding)
        return classifier.encode(self.encoder, crops, recipe, batch_size=batch_size, padded=padded)


def _timed(recurrence: Recurrence[PassResult], stopwatch: Stopwatch) -> Recurrence[PassResult]:
    """Delegate to a recurrence and measure its own time."""
    embeddings: Float[Tensor, "m d"] | None = None
    while True:
        with stopwatch.measure("proposal_ms"):
            try:
                crops = next(recurrence) if embeddings is None else recurrence.send(embeddings)
            except StopIteration as end:
                result: PassResult = end.value
                break
        embeddings = yield crops
    return result


def _reorder_trace(trace: StepTrace, vocabulary: Vocabulary) -> StepTrace:
    """Return the trace with its queries in the vocabulary's order."""
    step = reorder_step(trace.step, vocabulary)
    rows = {query.label: row for row, query in enumerate(trace.step.queries)}
    order = [rows[query.label] for query in step.queries]
    return StepTrace(step, trace.cams[order], trace.similarity[np.ix_(order, order)])
