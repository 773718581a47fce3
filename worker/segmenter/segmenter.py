"""CaR from pictures to masks: Segmenter.segment."""

from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from car import rle
from car.recipe import Arithmetic, Mode, Recipe, VisualPrompt
from car.segmentation import Mask, Pass, Segmentation, Step, StopReason, Work
from car.vocabulary import Vocabulary
from worker.segmenter import classifier, crf, proposals
from worker.segmenter.encoder import Encoder
from worker.segmenter.proposals import Encoded
from worker.segmenter.recurrence import Crops, Look, Subject, Survivors, recur
from worker.segmenter.texts import Texts, embed

Image = UInt8[np.ndarray, "_ _ 3"]
Clock = Callable[[], float]
"""Seconds from any fixed point, such as time.perf_counter."""
Observe = Callable[[int, Look], None]
"""Called with a picture's index and each step of its recurrence."""

_VOCABULARIES_KEPT = 8


@dataclass(frozen=True)
class Batches:
    """How many inputs share a forward pass. These are fixed shapes, so that a result never depends on its company."""

    images: int
    crops: int

    @classmethod
    def suited_to(cls, device: torch.device) -> "Batches":
        """A CPU gains nothing from company; a GPU is filled by it."""
        return cls(images=8, crops=64) if device.type == "cuda" else cls(images=1, crops=1)


@dataclass(frozen=True)
class _Plan:
    """One pass over a picture: its words, their background, and how masks are shown and sharpened."""

    within: Pass
    vocabulary: Vocabulary
    visual_prompts: tuple[VisualPrompt, ...]
    bg_factor: float


@dataclass
class Segmenter:
    """A pair of CLIPs that turns pictures and words into masks. It keeps the text embeddings of the last vocabularies,
    and nothing else, between calls.
    """

    proposal: Encoder
    classifier: Encoder
    batches: Batches | None = None
    clock: Clock | None = None
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
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:  # noqa: PLR2004
                raise ValueError(f"a picture must be uint8 (h, w, 3), got {image.dtype} {image.shape}")
        batches = self.batches or Batches.suited_to(self.proposal.device)
        look = observe and _in_order_of(vocabulary, observe)
        done: dict[int, Segmentation] = {}
        for group in _same_padded_size(images, batches.images):
            watch = _Stopwatch(self.clock, share=len(group))
            with watch.over("encode_ms"):
                some = [images[i] for i in group]
                encoded = proposals.encode(self.proposal, some, recipe, at_once=batches.images)
            runs = [_Run(i, images[i], e) for i, e in zip(group, encoded, strict=True)]
            for plan in _plans(_canonical(vocabulary, recipe), recipe):
                self._run(plan, runs, recipe, batches, watch, look)
            done |= {run.index: run.result(vocabulary, watch.times) for run in runs}
        return [done[index] for index in range(len(images))]

    def _run(
        self,
        plan: _Plan,
        runs: "list[_Run]",
        recipe: Recipe,
        batches: Batches,
        watch: "_Stopwatch",
        observe: Observe | None,
    ) -> None:
        with watch.over("text_ms"):
            texts = self._embedded(plan.vocabulary, recipe)
        loops = [recur(self._subject(plan, run, texts, recipe, observe)) for run in runs]
        survivors = self._drive(loops, recipe, batches, watch)
        with watch.over("crf_ms"):
            for run, rest in zip(runs, survivors, strict=True):
                run.finish(plan, rest, recipe)

    def _embedded(self, vocabulary: Vocabulary, recipe: Recipe) -> Texts:
        key = (vocabulary.digest, str(recipe.refer_filter))
        if key not in self._texts:
            while len(self._texts) >= _VOCABULARIES_KEPT:
                del self._texts[next(iter(self._texts))]
            self._texts[key] = embed(self.proposal, self.classifier, vocabulary, recipe)
        return self._texts[key]

    def _subject(self, plan: _Plan, run: "_Run", texts: Texts, recipe: Recipe, observe: Observe | None) -> Subject:
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
            with watch.over("classifier_ms"):
                crops = [crop for some in wanted.values() for crop in some]
                embeddings = classifier.encode(self.classifier, crops, recipe, at_once=batches.crops)
            parts = torch.split(embeddings, [len(some) for some in wanted.values()])
            answers = dict(zip(wanted, parts, strict=True))
        return [rests[number] for number in range(len(loops))]


@dataclass
class _Run:
    """One picture on its way, over one pass or two."""

    index: int
    image: Image
    encoded: Encoded
    masks: dict[str, Mask] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    stops: list[StopReason] = field(default_factory=list)
    work: list[Work] = field(default_factory=lambda: [Work(proposal_forwards=1)])

    def finish(self, plan: _Plan, rest: Survivors, recipe: Recipe) -> None:
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
            if mask.any():
                self.masks[label] = _mask(label, score, mask)
        self.steps += rest.steps
        self.stops.append(rest.stop_reason)
        self.work.append(Work(crops_encoded=rest.crops_encoded, crops_reused=rest.crops_reused, crf_runs=len(together)))

    def result(self, vocabulary: Vocabulary, timings: dict[str, float]) -> Segmentation:
        height, width = self.image.shape[:2]
        limited = StopReason.STEP_LIMIT in self.stops
        return Segmentation(
            width=width,
            height=height,
            masks=tuple(self.masks[name] for name in vocabulary.names if name in self.masks),
            steps=tuple(_reordered(step, vocabulary) for step in self.steps),
            stop_reason=StopReason.STEP_LIMIT if limited else self.stops[0],
            timings=dict(timings),
            work=reduce(add, self.work) + Work(vector_jacobian_products=self.encoded.products),
        )


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


def _plans(vocabulary: Vocabulary, recipe: Recipe) -> list[_Plan]:
    """One pass, or two where the recipe names stuff labels and the vocabulary has both kinds: things against the
    background words, then stuff against the things (the official mutual background).
    """
    stuff = [name for name in vocabulary.names if name in recipe.stuff]
    things = [name for name in vocabulary.names if name not in recipe.stuff]
    background = vocabulary.background
    shown_stuff = recipe.stuff_visual_prompts or recipe.visual_prompts
    if not stuff or not things:
        within = Pass.STUFF if stuff else Pass.THINGS
        shown, bg_factor = (shown_stuff, recipe.stuff_bg_factor) if stuff else (recipe.visual_prompts, recipe.bg_factor)
        return [_Plan(within, vocabulary, shown, bg_factor)]
    behind_things = background if recipe.stuff_background is Arithmetic.OFFICIAL else tuple(stuff)
    return [
        _Plan(Pass.THINGS, vocabulary.subset(things, behind_things), recipe.visual_prompts, recipe.bg_factor),
        _Plan(Pass.STUFF, vocabulary.subset(stuff, tuple(things)), shown_stuff, recipe.stuff_bg_factor),
    ]


def _canonical(vocabulary: Vocabulary, recipe: Recipe) -> Vocabulary:
    """The labels in alphabetical order, in which everything is computed: so the order in which a vocabulary is written
    down cannot change a single bit. The official refer filter alone depends on places.
    """
    if recipe.refer_filter is Arithmetic.OFFICIAL and not vocabulary.classifier_templates:
        return vocabulary
    return replace(vocabulary, labels=tuple(sorted(vocabulary.labels, key=lambda label: label.name)))


def _reordered(step: Step, vocabulary: Vocabulary) -> Step:
    """The step with its queries in the order in which the user wrote them."""
    by_label = {query.label: query for query in step.queries}
    return replace(step, queries=tuple(by_label[name] for name in vocabulary.names if name in by_label))


def _in_order_of(vocabulary: Vocabulary, observe: Observe) -> Observe:
    def look(index: int, one: Look) -> None:
        step = _reordered(one.step, vocabulary)
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
