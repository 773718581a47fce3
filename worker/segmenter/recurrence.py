"""The recurrence: propose, prompt, score, drop weak queries, and repeat until the set of queries is stable.

    h_t = sigma(P_t),   P_t = g(v(x, f(x, h_{t-1}))),   until h_t = h_{t-1}        (paper eq. 1-6, Algorithm 1)

The recurrence of an image is a generator that yields the crops to encode and receives their embeddings. So its driver
decides which other images' crops share a batch with them, and the loop itself knows no batches.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from car.recipe import Arithmetic, Mode, Recipe
from car.segmentation import QueryScore, Step, StopReason, WorkCounters
from worker.segmenter import classifier, proposals
from worker.segmenter.classifier import Crops
from worker.segmenter.clip.texts import Texts
from worker.segmenter.passes import PassResult, PassSpec
from worker.segmenter.prompts import visual_prompts
from worker.segmenter.prompts.prompted_crops import Prompter, make_prompter
from worker.segmenter.proposals import EncodedImage
from worker.segmenter.resizing import PackedMask, enlarge

_UNPROMPTED = b"unprompted"
"""Crop key of the image without a prompt; the others are packed masks."""
_SURE_SUM = 2.0
"""A sum of float32 numbers in 0..1 that is above this is above 1, however it is rounded."""


@dataclass(frozen=True)
class StepTrace:
    """A step with its arrays, for parity tests and images of the query history."""

    step: Step
    cams: Float[np.ndarray, "n rows columns"]
    """Proposals of the step's queries at the grid's size, 0..1."""
    similarity: Float[np.ndarray, "n n"]
    """P."""


@dataclass(frozen=True, kw_only=True)
class RecurrenceInput:
    """Everything that the recurrence of one image in one pass reads."""

    image: UInt8[np.ndarray, "h w 3"]
    encoded: EncodedImage
    spec: PassSpec
    texts: Texts
    recipe: Recipe
    scales: tuple[float, float]
    """exp(logit_scale) of f and of g."""
    crop_size: int
    area_scale: float = 1.0
    """Pixels of the user's image per pixel of `image`, which may be smaller."""
    observe: Callable[[StepTrace], None] | None = None


def recur(inputs: RecurrenceInput) -> Generator[Crops, Float[Tensor, "m d"], PassResult]:
    """Run the recurrence of one image in one pass.

    Yields crops that were never encoded before, at least one, and expects one embedding for each, in order.
    """
    loop = _Loop(inputs)
    while True:
        loop.propose()
        crops = loop.prompt()
        loop.score(None if crops is None else (yield crops))
        stop = loop.drop()
        if stop is not None:
            return loop.result(stop)


@dataclass
class _Loop:
    """The state h_t, and what is cached from step to step."""

    inputs: RecurrenceInput
    alive: list[int] = field(init=False)
    kept: list[int] = field(default_factory=list)
    """Positions in `alive`, not indices into the vocabulary."""
    cams: Float[np.ndarray, "n rows columns"] = field(init=False)
    similarity: Float[np.ndarray, "n n"] = field(init=False)
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        inputs = self.inputs
        self.alive = list(range(len(inputs.spec.vocabulary.labels)))
        self.cams = np.zeros((len(self.alive), *inputs.encoded.grid), np.float32)
        self._background = _fold_background(inputs)
        self._raw = inputs.recipe.cam_text is Arithmetic.OFFICIAL
        """Whether CAMs read the texts without a template."""
        self._maps: dict[int, Float[Tensor, " p"]] = {}
        self._embeddings: dict[bytes, Float[Tensor, " d"]] = {}
        """By crop key."""
        self._new_keys: list[bytes] = []
        """Crop keys of this step that g has not seen before."""
        self._keys: list[bytes] = []
        """Crop keys of this step's queries."""
        self._has_cams = False
        self._masks: dict[int, PackedMask] = {}
        self._areas: list[int] = []
        self._overlaps: list[float | None] = []
        self._reused = 0
        # The official loop compares counts and starts at 0, so it takes at least two steps.
        self._count = 0 if inputs.recipe.stop is Arithmetic.OFFICIAL else len(self.alive)

    def propose(self) -> None:
        """f: compute the CAMs of the alive queries, which compete with each other and the background."""
        inputs, texts = self.inputs, self.inputs.texts.raw if self._raw else self.inputs.texts.templated
        exact = inputs.encoded.exact
        missing = [i for i in self.alive if i not in self._maps]
        if missing:
            self._maps |= dict(
                zip(missing, inputs.encoded.maps(exact(texts[missing]) - exact(inputs.texts.centre)), strict=True)
            )
        m = torch.stack([self._maps[i] for i in self.alive])
        logits = inputs.scales[0] * exact(texts[self.alive]) @ inputs.encoded.z
        cams = _gradcams(m, logits, self._background, independent=inputs.recipe.mode is Mode.REFER).float()
        if inputs.encoded.affinity is not None:
            cams = proposals.refine(cams, inputs.encoded.affinity, inputs.encoded.grid, inputs.recipe)
        new_cams = cams.cpu().numpy().reshape(self.cams.shape)
        # If no query has a CAM, each keeps its own of the previous step (the official code mixes them up), and the
        # classifier sees the unprompted image.
        self._has_cams = bool(new_cams.any())
        if self._has_cams:
            self.cams = new_cams

    def prompt(self) -> Crops | None:
        """v: return the image prompted with each proposal that g has not seen yet, or None."""
        inputs, eta = self.inputs, self.inputs.recipe.eta
        new_masks: list[PackedMask | None] = []
        masks: dict[int, PackedMask] = {}
        self._keys, self._areas, self._overlaps, self._new_keys = [], [], [], []
        shown = self.cams if self._has_cams else np.zeros_like(self.cams)
        for i, small_cam in zip(self.alive, shown, strict=True):
            cam = enlarge(small_cam, *inputs.image.shape[:2])
            mask = cam > eta
            masks[i] = np.packbits(mask)
            self._areas.append(int(np.count_nonzero(mask)))
            self._overlaps.append(_iou(masks[i], self._masks[i]) if i in self._masks else None)
            # A CAM that sums to 1 pixel or less shows nothing, so the image goes unprompted (official code). What is
            # above eta sums to more than its area times eta, so most sums need not be computed.
            empty = self._areas[-1] * eta <= _SURE_SUM and cam.sum() <= 1
            self._keys.append(self._crop_key(None if empty else masks[i], new_masks))
        self._masks = masks
        return self._prompter(new_masks) if new_masks else None

    def _crop_key(self, mask: PackedMask | None, new_masks: list[PackedMask | None]) -> bytes:
        """Return the key of what g sees, and append the mask to `new_masks` if g has not seen that yet."""
        if len(self.alive) == 1:
            return b""  # a softmax over one text is 1 whatever the image
        key = _UNPROMPTED if mask is None else mask.tobytes()
        if key in self._embeddings or key in self._new_keys:
            self._reused += 1
            return key
        new_masks.append(mask)
        self._new_keys.append(key)
        return key

    @cached_property
    def _prompter(self) -> Prompter:
        inputs = self.inputs
        source = visual_prompts.prepare(inputs.image, inputs.spec.visual_prompts, inputs.recipe)
        return make_prompter(source, inputs.crop_size, inputs.texts.classifier.device)

    def score(self, embeddings: Float[Tensor, "m d"] | None) -> None:
        """g: compute P, the similarity of the prompted images to the alive queries."""
        if embeddings is not None:
            self._embeddings |= dict(zip(self._new_keys, embeddings, strict=True))
        if len(self.alive) == 1:
            self.similarity = np.ones((1, 1), np.float32)
            return
        texts, scale, recipe = self.inputs.texts, self.inputs.scales[1], self.inputs.recipe
        crops = torch.stack([self._embeddings[key] for key in self._keys])
        if texts.characters is not None and self.steps:
            p = texts.characters.similarity(crops, self.alive, scale, recipe)
        else:
            templated = bool(self.inputs.spec.vocabulary.classifier_templates)
            p = classifier.similarity(crops, texts.classifier[:, self.alive], scale, recipe, templated=templated)
        self.similarity = p.cpu().numpy()

    def drop(self) -> StopReason | None:
        """sigma: keep the queries that score above theta. Return why the recurrence stops, or None."""
        recipe, scores = self.inputs.recipe, self.similarity.diagonal()
        above = scores > recipe.theta if recipe.theta_bound is Arithmetic.OFFICIAL else scores >= recipe.theta
        self.kept = np.flatnonzero(above).tolist()
        if not self.kept and recipe.none_kept is Arithmetic.OFFICIAL:
            self.kept = [int(scores.argmax())]
        self._record()
        count = int(np.count_nonzero(scores[self.kept] > 0))
        stop = self._stop(count)
        if stop in (None, StopReason.STEP_LIMIT, StopReason.NONE_LEFT):
            self.alive, self.cams = [self.alive[k] for k in self.kept], self.cams[self.kept]
            self.similarity = self.similarity[np.ix_(self.kept, self.kept)]
        self._count = count
        if self._raw:
            self._raw, self._maps = False, {}  # from step 2 on the CAM reads the template
        return stop

    def _stop(self, count: int) -> StopReason | None:
        if not self.kept:
            return StopReason.NONE_LEFT
        if count == self._count:
            return StopReason.ONE_LEFT if len(self.alive) == 1 else StopReason.UNCHANGED
        return StopReason.STEP_LIMIT if len(self.steps) == self.inputs.recipe.max_steps else None

    def _record(self) -> None:
        labels, template = self.inputs.spec.vocabulary.labels, self.inputs.spec.vocabulary.cam_template
        queries = []
        for k, i in enumerate(self.alive):
            row = self.similarity[k]
            best = int(row.argmax())
            has_rival = best != k
            queries.append(
                QueryScore(
                    label=labels[i].name,
                    text=labels[i].text if self._raw else " | ".join(template.format(p) for p in labels[i].prompts),
                    score=float(row[k]),
                    kept=k in self.kept,
                    area=round(self._areas[k] * self.inputs.area_scale),
                    iou_previous=self._overlaps[k],
                    rival=labels[self.alive[best]].name if has_rival else None,
                    rival_score=float(row[best]) if has_rival else None,
                )
            )
        self.steps.append(Step(len(self.steps) + 1, tuple(queries), self.inputs.spec.pass_kind))
        if self.inputs.observe is not None:
            self.inputs.observe(StepTrace(self.steps[-1], self.cams, self.similarity))

    def result(self, stop: StopReason) -> PassResult:
        labels = self.inputs.spec.vocabulary.labels
        return PassResult(
            labels=tuple(labels[i].name for i in self.alive),
            scores=tuple(float(score) for score in self.similarity.diagonal()),
            cams=self.cams,
            bg_factor=self.inputs.spec.bg_factor,
            steps=tuple(self.steps),
            stop_reason=stop,
            work=WorkCounters(crops_encoded=len(self._embeddings), crops_reused=self._reused),
        )


@dataclass(frozen=True)
class _Background:
    """All background texts of an image as one competitor: their M, and the log-sum-exp of their logits."""

    m: Float[Tensor, " p"]
    logit: Float[Tensor, ""]


def _fold_background(inputs: RecurrenceInput) -> _Background:
    encoded = inputs.encoded
    texts = encoded.exact(inputs.texts.background)
    if not len(texts):
        return _Background(torch.zeros_like(encoded.a[:, 0]), torch.tensor(-torch.inf).to(texts))
    logits = inputs.scales[0] * texts @ encoded.z
    folded = logits.softmax(0) @ (texts - encoded.exact(inputs.texts.centre))
    return _Background(encoded.maps(folded[None])[0], torch.logsumexp(logits, 0))


def _gradcams(
    m: Float[Tensor, "n p"], logits: Float[Tensor, " n"], background: _Background, *, independent: bool
) -> Float[Tensor, "n p"]:
    """Return the queries' GradCAMs. If `independent`, each competes with the background alone."""
    if not independent:
        return proposals.gradcams(m, logits, background.m, background.logit)
    rows = [proposals.gradcams(m[k : k + 1], logits[k : k + 1], background.m, background.logit) for k in range(len(m))]
    return torch.cat(rows)


def _iou(a: UInt8[np.ndarray, " bytes"], b: UInt8[np.ndarray, " bytes"]) -> float:
    """Return the IoU of two packed masks; 1 if both are empty."""
    union = int(np.bitwise_count(a | b).sum())
    return int(np.bitwise_count(a & b).sum()) / union if union else 1.0
