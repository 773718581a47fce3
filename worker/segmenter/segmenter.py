"""CaR from pictures to masks: Segmenter.segment; or Segmenter.recur, and the finishing wherever there is a CPU."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from car.options import CrfBackend
from car.recipe import Arithmetic, Recipe
from car.segmentation import Segmentation
from car.vocabulary import Vocabulary
from worker.segmenter import classifier, proposals
from worker.segmenter.batch_scheduler import BatchScheduler
from worker.segmenter.classifier import Crops
from worker.segmenter.clip.encoder import Encoder
from worker.segmenter.clip.texts import Texts, embed
from worker.segmenter.crf.dense_crf import reference
from worker.segmenter.crf.device_arrays import DeviceArrays
from worker.segmenter.image_state import ImageState
from worker.segmenter.passes import PassSpec, build_passes, canonical, reorder_step
from worker.segmenter.postprocess import Clock, PendingSegmentation
from worker.segmenter.recurrence import RecurrenceInput, RecurrenceResult, StepTrace, recur
from worker.segmenter.requests import SegmentRequest, StartedRequest, Steps
from worker.segmenter.resizing import Image, shrunk, shrunk_size
from worker.segmenter.sam.ensembling import FindRegions

Observe = Callable[[int, StepTrace], None]
"""Called with a picture's index and each step of its recurrence, once the picture rests."""

_VOCABULARIES_KEPT = 8


@dataclass(frozen=True)
class Batches:
    """How many inputs share a forward pass, at most. A result never depends on its company: a batch that pictures share
    is always filled up to its size, and where pictures go one by one a batch holds one picture's crops alone.
    """

    images: int
    crops: int

    @classmethod
    def suited_to(cls, device: torch.device) -> "Batches":
        """A CPU is filled by one picture and a few crops."""
        return cls(images=8, crops=64) if device.type == "cuda" else cls(images=1, crops=4)


@dataclass
class Segmenter:
    """A pair of CLIPs that turns pictures and words into masks. It keeps the text embeddings of the last vocabularies,
    and nothing else, between calls.
    """

    proposal: Encoder
    classifier: Encoder
    batches: Batches | None = None
    clock: Clock | None = None
    sam: FindRegions | None = None
    """Asked for recipes that have SAM on, and for no others."""
    crf_by: CrfBackend = CrfBackend.LATTICE
    """On CUDA the lattices run there, before a picture leaves `recur`."""
    _texts: dict[tuple[str, str], Texts] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Raises: ReferenceMissing, before any picture is begun."""
        if self.crf_by is CrfBackend.PYDENSECRF:
            reference()

    def segment(
        self,
        images: Sequence[Image],
        vocabulary: Vocabulary,
        recipe: Recipe,
        *,
        observe: Observe | None = None,
    ) -> list[Segmentation]:
        """Masks for RGB pictures of any sizes, in the order given.

        Raises:
            VocabularyError: a text of more tokens than CLIP reads.

        """
        return [one.finish(self.clock) for one in self.recur(images, vocabulary, recipe, observe=observe)]

    def recur(
        self,
        images: Sequence[Image],
        vocabulary: Vocabulary,
        recipe: Recipe,
        *,
        observe: Observe | None = None,
    ) -> list[PendingSegmentation]:
        """What `segment` does with the models. The CRF and the coding of masks are left, in the order of the pictures:
        a CPU finishes them in any thread or process while the models see the next pictures.

        Raises:
            VocabularyError: a text of more tokens than CLIP reads.
            ValueError: something that is no picture, or a recipe with SAM where there is none.

        """
        asks = [
            SegmentRequest(index, image, vocabulary, recipe, observe and partial(observe, index))
            for index, image in enumerate(images)
        ]
        for ask in asks:
            self._check(ask)
        done: dict[int, PendingSegmentation] = {}
        for index, found in self.scheduler().run(asks):
            if isinstance(found, Exception):
                raise found
            if found is not None:
                done[index] = found
        return [done[index] for index in range(len(images))]

    def scheduler(self, *, most: int = 0) -> BatchScheduler[PendingSegmentation]:
        """For pictures that come one after the other, each with its own words and recipe. `most` are held at a time."""
        batches = self.batches or Batches.suited_to(self.proposal.device)
        return BatchScheduler(self, images=batches.images, crops=batches.crops, most=most, clock=self.clock)

    @staticmethod
    def kind(ask: SegmentRequest) -> Hashable:
        """Equal for pictures that f can see in one batch."""
        height, width = ask.image.shape[:2]
        size = proposals.padded_size(*shrunk_size(height, width, ask.recipe.max_side))
        return size, ask.recipe.cam, ask.recipe.position_rounding

    def begin(self, asks: Sequence[SegmentRequest], *, at_once: int) -> list[StartedRequest[PendingSegmentation]]:
        """What f sees of pictures of one kind, and their recurrences from there on."""
        for ask in asks:
            self._check(ask)
        working = [shrunk(ask.image, ask.recipe.max_side) for ask in asks]
        encoded = proposals.encode(self.proposal, working, asks[0].recipe, at_once=at_once)
        begun = []
        for ask, image, seen in zip(asks, working, encoded, strict=True):
            watch = _Stopwatch(self.clock)
            picture = ImageState(ask.image.shape[:2], image, seen)
            lens = _CropEncoder(self.classifier, ask.recipe.classifier_depth, ask.recipe.position_rounding)
            begun.append(StartedRequest(self._to_rest(ask, picture, watch), lens, watch.times))
        return begun

    def _check(self, ask: SegmentRequest) -> None:
        image = ask.image
        if ask.recipe.sam and self.sam is None:
            raise ValueError("the recipe has sam=on, and this segmenter was made without a SAM")
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:  # noqa: PLR2004
            raise ValueError(f"a picture must be uint8 (h, w, 3), got {image.dtype} {image.shape}")

    def _to_rest(self, ask: SegmentRequest, picture: ImageState, watch: "_Stopwatch") -> Steps[PendingSegmentation]:
        """All passes over a picture, and then what else the models have to say of the words that survived."""
        looks: list[StepTrace] = []
        for plan in build_passes(canonical(ask.vocabulary, ask.recipe), ask.recipe):
            with watch.over("text_ms"):
                texts = self._embedded(plan.vocabulary, ask.recipe)
            subject = self._subject(plan, picture, texts, ask.recipe, looks.append if ask.observe else None)
            picture.add_pass(plan, (yield from _timed(recur(subject), watch)), ask.vocabulary)
        self._find_regions(picture, ask.recipe, watch)
        if ask.observe is not None:
            for look in looks:
                ask.observe(_in_order_of(ask.vocabulary, look))
        return self._sharpened(picture.pending(ask.vocabulary, ask.recipe, watch.times))

    def _find_regions(self, picture: ImageState, recipe: Recipe, watch: "_Stopwatch") -> None:
        """SAM sees each picture by itself, once, and only where it can matter."""
        if not recipe.sam or self.sam is None:
            return
        with watch.over("sam_ms"):
            picture.regions = self.sam(picture.image, recipe) if picture.anything_left else ()

    def _sharpened(self, unfinished: PendingSegmentation) -> PendingSegmentation:
        """The CRF on the device that has the models. A CPU runs it when it finishes the picture."""
        unfinished, device = replace(unfinished, crf_by=self.crf_by), self.proposal.device
        if device.type != "cuda" or self.crf_by is CrfBackend.PYDENSECRF:
            return unfinished
        return unfinished.with_crf(DeviceArrays(device), self.clock)

    def _embedded(self, vocabulary: Vocabulary, recipe: Recipe) -> Texts:
        key = (vocabulary.digest, str(recipe.refer_filter))
        if key not in self._texts:
            while len(self._texts) >= _VOCABULARIES_KEPT:
                del self._texts[next(iter(self._texts))]
            self._texts[key] = embed(self.proposal, self.classifier, vocabulary, recipe)
        return self._texts[key]

    def _subject(
        self,
        plan: PassSpec,
        picture: ImageState,
        texts: Texts,
        recipe: Recipe,
        observe: Callable[[StepTrace], None] | None,
    ) -> RecurrenceInput:
        return RecurrenceInput(
            image=picture.image,
            encoded=picture.encoded,
            vocabulary=plan.vocabulary,
            texts=texts,
            recipe=recipe,
            prompts=plan.visual_prompts,
            scales=(self.proposal.scale, self.classifier.scale),
            crop_size=self.classifier.image_size,
            pixel=picture.pixel,
            pass_kind=plan.pass_kind,
            observe=observe,
        )


@dataclass(frozen=True)
class _CropEncoder:
    """g, as far as recipes differ in it."""

    encoder: Encoder
    depth: Arithmetic
    rounding: Arithmetic

    def encode(self, crops: Crops, *, at_once: int, padded: bool) -> Float[Tensor, "m d"]:
        recipe = replace(Recipe(), classifier_depth=self.depth, position_rounding=self.rounding)
        return classifier.encode(self.encoder, crops, recipe, at_once=at_once, padded=padded)


@dataclass
class _Stopwatch:
    """Milliseconds of one picture by stage."""

    clock: Clock | None
    times: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def over(self, stage: str) -> Iterator[None]:
        start = self.clock() if self.clock else 0.0
        yield
        if self.clock:
            self.times[stage] += (self.clock() - start) * 1000


def _timed(loop: Steps[RecurrenceResult], watch: _Stopwatch) -> Steps[RecurrenceResult]:
    """The same, with the time that it takes itself."""
    answer: Float[Tensor, "m d"] | None = None
    while True:
        with watch.over("proposal_ms"):
            try:
                crops = next(loop) if answer is None else loop.send(answer)
            except StopIteration as rest:
                survivors: RecurrenceResult = rest.value
                break
        answer = yield crops
    return survivors


def _in_order_of(vocabulary: Vocabulary, one: StepTrace) -> StepTrace:
    step = reorder_step(one.step, vocabulary)
    place = {query.label: k for k, query in enumerate(one.step.queries)}
    order = [place[query.label] for query in step.queries]
    return StepTrace(step, one.cams[order], one.similarity[np.ix_(order, order)])
