"""CaR from pictures to masks: Segmenter.segment; or Segmenter.recur, and the finishing wherever there is a CPU."""

from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from car.crf_by import CrfBy
from car.recipe import Recipe
from car.segmentation import Segmentation
from car.vocabulary import Vocabulary
from worker.segmenter import classifier, proposals
from worker.segmenter.classifier import Crops
from worker.segmenter.device_arrays import DeviceArrays
from worker.segmenter.encoder import Encoder
from worker.segmenter.ensembling import FindRegions
from worker.segmenter.finishing import Clock, Unfinished
from worker.segmenter.picture import Picture
from worker.segmenter.plans import Plan, canonical, in_order_of, plans
from worker.segmenter.recurrence import Look, Subject, Survivors, recur
from worker.segmenter.sizes import Image, shrunk
from worker.segmenter.texts import Texts, embed

Observe = Callable[[int, Look], None]
"""Called with a picture's index and each step of its recurrence."""

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
    crf_by: CrfBy = CrfBy.LATTICE
    """On CUDA the lattices run there, before a picture leaves `recur`."""
    _texts: dict[tuple[str, str], Texts] = field(default_factory=dict, repr=False)

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
    ) -> list[Unfinished]:
        """What `segment` does with the models. The CRF and the coding of masks are left, in the order of the pictures:
        a CPU finishes them in any thread or process while the models see the next pictures.

        Raises:
            VocabularyError: a text of more tokens than CLIP reads.
            ValueError: something that is no picture, or a recipe with SAM where there is none.

        """
        if recipe.sam and self.sam is None:
            raise ValueError("the recipe has sam=on, and this segmenter was made without a SAM")
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:  # noqa: PLR2004
                raise ValueError(f"a picture must be uint8 (h, w, 3), got {image.dtype} {image.shape}")
        working = [shrunk(image, recipe.max_side) for image in images]
        batches = self.batches or Batches.suited_to(self.proposal.device)
        look = observe and _in_order_of(vocabulary, observe)
        done: dict[int, Unfinished] = {}
        for group in _same_padded_size(working, batches.images):
            watch = _Stopwatch(self.clock, share=len(group))
            with watch.over("encode_ms"):
                some = [working[i] for i in group]
                encoded = proposals.encode(self.proposal, some, recipe, at_once=batches.images)
            runs = [Picture(i, images[i].shape[:2], working[i], e) for i, e in zip(group, encoded, strict=True)]
            for plan in plans(canonical(vocabulary, recipe), recipe):
                rests = self._run(plan, runs, recipe, batches, watch, look)
                for run, rest in zip(runs, rests, strict=True):
                    run.rest(plan, rest, vocabulary)
            self._find_regions(runs, recipe, watch)
            done |= {run.index: self._sharpened(run.unfinished(vocabulary, recipe, watch.times)) for run in runs}
        return [done[index] for index in range(len(images))]

    def _run(
        self,
        plan: Plan,
        runs: list[Picture],
        recipe: Recipe,
        batches: Batches,
        watch: "_Stopwatch",
        observe: Observe | None,
    ) -> list[Survivors]:
        with watch.over("text_ms"):
            texts = self._embedded(plan.vocabulary, recipe)
        loops = [recur(self._subject(plan, run, texts, recipe, observe)) for run in runs]
        return self._drive(loops, recipe, batches, watch)

    def _find_regions(self, runs: list[Picture], recipe: Recipe, watch: "_Stopwatch") -> None:
        """SAM sees each picture by itself, once, and only where it can matter."""
        if not recipe.sam or self.sam is None:
            return
        with watch.over("sam_ms"):
            for run in runs:
                run.regions = self.sam(run.image, recipe) if run.anything_left else ()

    def _sharpened(self, unfinished: Unfinished) -> Unfinished:
        """The CRF on the device that has the models. A CPU runs it when it finishes the picture."""
        unfinished, device = replace(unfinished, crf_by=self.crf_by), self.proposal.device
        if device.type != "cuda" or self.crf_by is CrfBy.PYDENSECRF:
            return unfinished
        return unfinished.sharpened(DeviceArrays(device), self.clock)

    def _embedded(self, vocabulary: Vocabulary, recipe: Recipe) -> Texts:
        key = (vocabulary.digest, str(recipe.refer_filter))
        if key not in self._texts:
            while len(self._texts) >= _VOCABULARIES_KEPT:
                del self._texts[next(iter(self._texts))]
            self._texts[key] = embed(self.proposal, self.classifier, vocabulary, recipe)
        return self._texts[key]

    def _subject(self, plan: Plan, run: Picture, texts: Texts, recipe: Recipe, observe: Observe | None) -> Subject:
        def look(one: Look) -> None:
            if observe is not None:
                observe(run.index, one)

        return Subject(
            image=run.image,
            encoded=run.encoded,
            vocabulary=plan.vocabulary,
            texts=texts,
            recipe=recipe,
            prompts=plan.visual_prompts,
            scales=(self.proposal.scale, self.classifier.scale),
            crop_size=self.classifier.image_size,
            pixel=run.pixel,
            within=plan.within,
            observe=look,
        )

    def _drive(
        self,
        loops: list[Generator[Crops, Float[Tensor, "m d"], Survivors]],
        recipe: Recipe,
        batches: Batches,
        watch: "_Stopwatch",
    ) -> list[Survivors]:
        """All recurrences to rest, side by side: what they want to see in one round shares the classifier's batches."""
        rests: dict[int, Survivors] = {}
        answers: dict[int, Float[Tensor, "m d"] | None] = dict.fromkeys(range(len(loops)))
        while answers:
            wanted: dict[int, Crops] = {}
            with watch.over("proposal_ms"):
                for number, answer in answers.items():
                    try:
                        wanted[number] = next(loops[number]) if answer is None else loops[number].send(answer)
                    except StopIteration as rest:
                        rests[number] = rest.value
            if not wanted:
                break
            with watch.over("classifier_ms"):
                embeddings = classifier.encode(
                    self.classifier,
                    torch.cat(list(wanted.values())),
                    recipe,
                    at_once=batches.crops,
                    padded=batches.images > 1,
                )
            parts = torch.split(embeddings, [len(some) for some in wanted.values()])
            answers = dict(zip(wanted, parts, strict=True))
        return [rests[number] for number in range(len(loops))]


@dataclass
class _Stopwatch:
    """Milliseconds by stage, as each of `share` pictures' part of what they were computed in together."""

    clock: Clock | None
    share: int
    times: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def over(self, stage: str) -> Iterator[None]:
        start = self.clock() if self.clock else 0.0
        yield
        if self.clock:
            self.times[stage] += (self.clock() - start) * 1000 / self.share


def _in_order_of(vocabulary: Vocabulary, observe: Observe) -> Observe:
    def look(index: int, one: Look) -> None:
        step = in_order_of(one.step, vocabulary)
        place = {query.label: k for k, query in enumerate(one.step.queries)}
        order = [place[query.label] for query in step.queries]
        observe(index, Look(step, one.cams[order], one.similarity[np.ix_(order, order)]))

    return look


def _same_padded_size(images: Sequence[Image], at_once: int) -> Iterator[list[int]]:
    """Indices of pictures that f can see in one batch, at most `at_once` of them."""
    buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        buckets[proposals.padded_size(*image.shape[:2])].append(index)
    for bucket in buckets.values():
        for start in range(0, len(bucket), at_once):
            yield bucket[start : start + at_once]
