"""The recurrence: propose, show, score, drop the weak, and again until the set of queries is stable.

    h_t = sigma(P_t),   P_t = g(v(x, f(x, h_{t-1}))),   until h_t = h_{t-1}        (paper eq. 1-6, Algorithm 1)

One picture's recurrence is a generator: it yields the crops it wants to have encoded and is sent their embeddings. So
who drives it decides with which other pictures' crops they share a batch, and the loop itself knows of no batches.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from car.recipe import Arithmetic, Mode, Recipe, VisualPrompt
from car.segmentation import Pass, QueryScore, Step, StopReason
from car.vocabulary import Vocabulary
from worker.segmenter import classifier, proposals
from worker.segmenter.classifier import Crops
from worker.segmenter.clip.texts import Texts
from worker.segmenter.prompts import visual_prompts
from worker.segmenter.prompts.prompting import Prompter, prompter
from worker.segmenter.proposals import EncodedImage
from worker.segmenter.resizing import Packed, enlarge

_UNPROMPTED = b"unprompted"
"""Key of the picture as it is, among the packed masks that are keys of what was shown."""
_SURE_SUM = 2.0
"""A sum of float32 numbers in 0..1 that is above this is above 1, however it is rounded."""


@dataclass(frozen=True)
class StepTrace:
    """One step as an onlooker sees it: for parity tests and pictures of the history."""

    step: Step
    cams: Float[np.ndarray, "n rows columns"]
    """Proposals of the step's queries before they are enlarged, 0..1."""
    similarity: Float[np.ndarray, "n n"]
    """P."""


@dataclass(frozen=True, kw_only=True)
class RecurrenceInput:
    """One picture in one pass: all that its recurrence reads."""

    image: UInt8[np.ndarray, "h w 3"]
    encoded: EncodedImage
    vocabulary: Vocabulary
    texts: Texts
    recipe: Recipe
    prompts: tuple[VisualPrompt, ...]
    scales: tuple[float, float]
    """exp(logit_scale) of f and of g."""
    crop_size: int
    pixel: float = 1.0
    """Pixels of the user's picture to one of `image`, which may be smaller."""
    pass_kind: Pass = Pass.THINGS
    observe: Callable[[StepTrace], None] | None = None


@dataclass(frozen=True)
class RecurrenceResult:
    """Where the recurrence came to rest: queries as indices into the vocabulary, in its order."""

    indices: list[int]
    scores: list[float]
    cams: Float[np.ndarray, "n rows columns"]
    """Proposals of the last step at the grid's size, 0..1."""
    steps: list[Step]
    stop_reason: StopReason
    crops_encoded: int
    crops_reused: int


def recur(subject: RecurrenceInput) -> Generator[Crops, Float[Tensor, "m d"], RecurrenceResult]:
    """Run one picture to rest.

    Yields crops that were never encoded before (perhaps none) and expects one embedding each, in order.
    """
    loop = _Loop(subject)
    while True:
        loop.propose()
        crops = loop.show()
        loop.score((yield crops) if len(crops) else None)
        stop = loop.drop()
        if stop is not None:
            return loop.survivors(stop)


@dataclass
class _Loop:
    """The state h_t, and what is carried from step to step so as not to be computed twice."""

    subject: RecurrenceInput
    alive: list[int] = field(init=False)
    kept: list[int] = field(default_factory=list)
    """Positions in `alive`, not indices into the vocabulary."""
    cams: Float[np.ndarray, "n rows columns"] = field(init=False)
    similarity: Float[np.ndarray, "n n"] = field(init=False)
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        subject = self.subject
        self.alive = list(range(len(subject.vocabulary.labels)))
        self.cams = np.zeros((len(self.alive), *subject.encoded.grid), np.float32)
        self._background = _fold_background(subject)
        self._raw = subject.recipe.cam_text is Arithmetic.OFFICIAL
        self._maps: dict[int, Float[Tensor, " p"]] = {}
        self._embeddings: dict[bytes, Float[Tensor, " d"]] = {}
        self._awaited: list[bytes] = []
        self._keys: list[bytes] = []
        self._packed: dict[int, Packed] = {}
        self._areas: list[int] = []
        self._overlaps: list[float | None] = []
        self._reused = 0
        # The official loop compares counts and begins at nought, so that two steps are the least.
        self._count = 0 if subject.recipe.stop is Arithmetic.OFFICIAL else len(self.alive)

    # f

    def propose(self) -> None:
        """f: CAMs of the living queries, of which only they and the background compete."""
        subject, texts = self.subject, self.subject.texts.raw if self._raw else self.subject.texts.templated
        missing = [i for i in self.alive if i not in self._maps]
        if missing:
            self._maps |= dict(zip(missing, subject.encoded.maps(texts[missing] - subject.texts.centre), strict=True))
        m = torch.stack([self._maps[i] for i in self.alive])
        logits = subject.scales[0] * texts[self.alive] @ subject.encoded.z
        cams = _together(m, logits, self._background, alone=subject.recipe.mode is Mode.REFER)
        if subject.encoded.affinity is not None:
            cams = proposals.refine(cams, subject.encoded.affinity, subject.encoded.grid, subject.recipe)
        fresh = cams.cpu().numpy().reshape(self.cams.shape)
        # Where no query has a CAM left, each keeps its own of the step before.
        self.cams = fresh if fresh.any() else self.cams

    # v

    def show(self) -> Crops:
        """v: the picture prompted with each proposal, as far as the classifier has not seen it already."""
        subject, eta = self.subject, self.subject.recipe.eta
        wanted: list[Packed | None] = []
        packed: dict[int, Packed] = {}
        self._keys, self._areas, self._overlaps, self._awaited = [], [], [], []
        for i, sheet in zip(self.alive, self.cams, strict=True):
            cam = enlarge(sheet, *subject.image.shape[:2])
            mask = cam > eta
            packed[i] = np.packbits(mask)
            self._areas.append(int(np.count_nonzero(mask)))
            self._overlaps.append(_iou(packed[i], self._packed[i]) if i in self._packed else None)
            # What is above eta sums to more than its area times eta: most sums need not be taken.
            nothing = self._areas[-1] * eta <= _SURE_SUM and cam.sum() <= 1
            self._keys.append(self._see(None if nothing else packed[i], wanted))
        self._packed = packed
        return self._views.crops(wanted) if wanted else self._no_crops

    def _see(self, mask: Packed | None, wanted: list[Packed | None]) -> bytes:
        """The key of what the classifier sees; what it has not seen joins `wanted`.

        A proposal that sums to 1 pixel or less shows nothing, so the picture goes unprompted (official code).
        """
        if len(self.alive) == 1:
            return b""  # a softmax over one text is 1 whatever the picture
        key = _UNPROMPTED if mask is None else mask.tobytes()
        if key in self._embeddings or key in self._awaited:
            self._reused += 1
            return key
        wanted.append(mask)
        self._awaited.append(key)
        return key

    @cached_property
    def _views(self) -> Prompter:
        subject = self.subject
        behind = visual_prompts.prepare(subject.image, subject.prompts, subject.recipe)
        return prompter(behind, subject.crop_size, subject.texts.classifier.device)

    @cached_property
    def _no_crops(self) -> Crops:
        size, device = self.subject.crop_size, self.subject.texts.classifier.device
        return torch.zeros(0, size, size, 3, dtype=torch.uint8, device=device)

    # g

    def score(self, embeddings: Float[Tensor, "m d"] | None) -> None:
        """g: P of what was shown against the living queries."""
        if embeddings is not None:
            self._embeddings |= dict(zip(self._awaited, embeddings, strict=True))
        if len(self.alive) == 1:
            self.similarity = np.ones((1, 1), np.float32)
            return
        texts, scale, recipe = self.subject.texts, self.subject.scales[1], self.subject.recipe
        crops = torch.stack([self._embeddings[key] for key in self._keys])
        if texts.characters is not None and self.steps:
            p = texts.characters.similarity(crops, self.alive, scale, recipe)
        else:
            templated = bool(self.subject.vocabulary.classifier_templates)
            p = classifier.similarity(crops, texts.classifier[:, self.alive], scale, recipe, templated=templated)
        self.similarity = p.cpu().numpy()

    # sigma

    def drop(self) -> StopReason | None:
        """sigma: keep what scores above theta. Says why the recurrence rests, if it does."""
        recipe, scores = self.subject.recipe, self.similarity.diagonal()
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
        return StopReason.STEP_LIMIT if len(self.steps) == self.subject.recipe.max_steps else None

    def _record(self) -> None:
        labels, template = self.subject.vocabulary.labels, self.subject.vocabulary.cam_template
        queries = []
        for k, i in enumerate(self.alive):
            row = self.similarity[k]
            best = int(row.argmax())
            lost = best != k
            queries.append(
                QueryScore(
                    label=labels[i].name,
                    text=labels[i].text if self._raw else " | ".join(template.format(p) for p in labels[i].prompts),
                    score=float(row[k]),
                    kept=k in self.kept,
                    area=round(self._areas[k] * self.subject.pixel),
                    iou_previous=self._overlaps[k],
                    rival=labels[self.alive[best]].name if lost else None,
                    rival_score=float(row[best]) if lost else None,
                )
            )
        self.steps.append(Step(len(self.steps) + 1, tuple(queries), self.subject.pass_kind))
        if self.subject.observe is not None:
            self.subject.observe(StepTrace(self.steps[-1], self.cams, self.similarity))

    def survivors(self, stop: StopReason) -> RecurrenceResult:
        scores = [float(score) for score in self.similarity.diagonal()]
        return RecurrenceResult(self.alive, scores, self.cams, self.steps, stop, len(self._embeddings), self._reused)


@dataclass(frozen=True)
class _Background:
    """All background texts of one picture as one competitor: M and log-sum-exp of the logits."""

    m: Float[Tensor, " p"]
    logit: Float[Tensor, ""]


def _fold_background(subject: RecurrenceInput) -> _Background:
    encoded, texts = subject.encoded, subject.texts.background
    if not len(texts):
        return _Background(torch.zeros_like(encoded.a[:, 0]), torch.tensor(-torch.inf, device=texts.device))
    logits = subject.scales[0] * texts @ encoded.z
    folded = logits.softmax(0) @ (texts - subject.texts.centre)
    return _Background(encoded.maps(folded[None])[0], torch.logsumexp(logits, 0))


def _together(
    m: Float[Tensor, "n p"], logits: Float[Tensor, " n"], background: _Background, *, alone: bool
) -> Float[Tensor, "n p"]:
    if not alone:
        return proposals.gradcams(m, logits, background.m, background.logit)
    rows = [proposals.gradcams(m[k : k + 1], logits[k : k + 1], background.m, background.logit) for k in range(len(m))]
    return torch.cat(rows)


def _iou(a: UInt8[np.ndarray, " bytes"], b: UInt8[np.ndarray, " bytes"]) -> float:
    """Of two masks packed to bits; 1 for two empty ones."""
    union = int(np.bitwise_count(a | b).sum())
    return int(np.bitwise_count(a & b).sum()) / union if union else 1.0
