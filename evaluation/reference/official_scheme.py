"""CaR as the official code schedules it: everything is computed again for every step, query and template.

The arithmetic is that of worker.segmenter with the recipe's official options, so CAMs, scores and kept queries agree.
Every step encodes the image and the texts again; every query has a forward and backward pass through the last block
and its own CAA matrix; every crop is encoded once per template. Each unit is counted and timed, so the time of a long
run can be computed from a part of it.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from car.clip_tokenizer import CONTEXT
from car.recipe import Arithmetic, Mode, Recipe
from car.vocabulary import Vocabulary
from evaluation.reference.autograd_cams import AutogradBlock
from worker.segmenter import classifier, proposals
from worker.segmenter.clip.encoder import Encoder
from worker.segmenter.prompts import visual_prompts
from worker.segmenter.resizing import enlarge

_AFFINITY_MAPS = 8


class Unit(StrEnum):
    """Repeated parts of the scheme, each of constant cost at one image size."""

    IMAGE = "f: image to the last block"
    TEXT_F = "f: text"
    LAST_BLOCK = "f: last block forward and backward"
    CHAIN = "f: CAA matrix"
    PROMPTED_CROP = "prompted crop"
    TEXT_G = "g: text"
    CROP = "g: crop"


@dataclass(frozen=True)
class OfficialStep:
    """One step of the official loop."""

    queries: list[str]
    scores: list[float]
    kept: list[int]
    """Positions in `queries`."""
    cams: Float[np.ndarray, "n rows columns"]
    """Refined, at the grid's size, 0..1."""


def counts(sizes: Sequence[int], templates: int, background: int) -> Counter[Unit]:
    """Return how often each unit runs if the steps have `sizes` queries and no CAM is all zero."""
    queries, steps = sum(sizes), len(sizes)
    return Counter(
        {
            Unit.IMAGE: steps,
            Unit.TEXT_F: queries + background,
            Unit.LAST_BLOCK: queries,
            Unit.CHAIN: queries,
            Unit.PROMPTED_CROP: queries,
            Unit.TEXT_G: queries * templates,
            Unit.CROP: queries * templates,
        }
    )


@dataclass
class OfficialScheme:
    """The run of one image, for labels of one prompt each, in one pass without stuff labels."""

    proposal: Encoder
    classifier: Encoder
    image: UInt8[np.ndarray, "h w 3"]
    vocabulary: Vocabulary
    recipe: Recipe
    clock: Callable[[], float] = time.process_time
    done: Counter[Unit] = field(default_factory=Counter, init=False)
    spent: dict[Unit, float] = field(default_factory=dict, init=False)
    """Seconds of the clock."""

    def run(self) -> list[OfficialStep]:
        """Run the recurrence until two steps in a row keep the same number of queries."""
        _check_official(self.vocabulary, self.recipe)
        background = self.proposal_texts([self.vocabulary.cam_template.format(w) for w in self.vocabulary.background])
        words = [label.prompts[0] for label in self.vocabulary.labels]
        queries, last, steps = words, 0, list[OfficialStep]()
        while True:
            cams = self.propose(queries, background)
            scores = self.score(self.prompted_crops(cams), words)
            kept = np.flatnonzero(scores > self.recipe.theta).tolist() or [int(scores.argmax())]
            steps.append(OfficialStep(queries, scores.tolist(), kept, cams))
            if len(kept) == last or len(steps) == self.recipe.max_steps:
                return steps
            last, words = len(kept), [words[k] for k in kept]
            queries = [self.vocabulary.cam_template.format(word) for word in words]

    # f

    def propose(self, queries: Sequence[str], background: Float[Tensor, "m d"]) -> Float[np.ndarray, "n rows columns"]:
        """Return the refined CAMs of one step."""
        block, attention, grid = self.encode_image()
        texts = self.proposal_texts(queries)
        cams = [self.refine(*self.query_cam(block, i, texts, background), attention, grid) for i in range(len(texts))]
        return np.stack(cams)

    @torch.no_grad()
    def encode_image(self) -> tuple[AutogradBlock, Float[Tensor, "1 t t"], tuple[int, int]]:
        """Return the image up to the last block, the sum of the attention maps that CAA reads, and the patch grid."""
        with self._timed(Unit.IMAGE):
            encoder = self.proposal
            height, width = proposals.padded_size(*self.image.shape[:2])
            pixels = torch.from_numpy(proposals.resize(self.image, height, width))[None]
            tokens = encoder.embed(encoder.normalise(pixels), round_positions=True)
            early, last = max(0, encoder.depth - _AFFINITY_MAPS), encoder.depth - 1
            tokens, _ = encoder.blocks(tokens, 0, early, attention_from=0)  # made by the official wrapper, never read
            tokens, attention = encoder.blocks(tokens, early, last, attention_from=early)
        return (
            AutogradBlock(encoder, tokens, attention=True),
            attention,
            (height // encoder.patch, width // encoder.patch),
        )

    def proposal_texts(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Embed one text at a time, all 77 positions."""
        embedded = [torch.zeros(0, self.proposal.width, device=self.proposal.device)]
        for text in texts:
            with self._timed(Unit.TEXT_F):
                embedded.append(self.proposal.texts([text], context=CONTEXT))
        return torch.cat(embedded)

    def query_cam(
        self, block: AutogradBlock, index: int, queries: Float[Tensor, "n d"], background: Float[Tensor, "m d"]
    ) -> tuple[Float[Tensor, "1 p"], Float[Tensor, "1 t t"]]:
        """Return one query's CAM, 0..1, and the last block's attention map of the same pass."""
        with self._timed(Unit.LAST_BLOCK):
            result = block.with_fallback(index, queries, background)
        assert result.attention is not None  # noqa: S101 - the block was made with attention
        return proposals.min_max(result.cam[None]), result.attention

    def refine(
        self,
        cam: Float[Tensor, "1 p"],
        own: Float[Tensor, "1 t t"],
        attention: Float[Tensor, "1 t t"],
        grid: tuple[int, int],
    ) -> Float[np.ndarray, "rows columns"]:
        """Refine the CAM of one query by a CAA matrix of its own."""
        with self._timed(Unit.CHAIN):
            maps = min(_AFFINITY_MAPS, self.proposal.depth)
            affinity = proposals.transition((attention + own)[0, 1:, 1:] / maps)
            return proposals.refine(cam, affinity, grid, self.recipe)[0].cpu().numpy().reshape(grid)

    # v and g

    def prompted_crops(self, cams: Float[np.ndarray, "n rows columns"]) -> list[UInt8[np.ndarray, "size size 3"]]:
        crops = []
        for grid_cam in cams:
            with self._timed(Unit.PROMPTED_CROP):
                behind = visual_prompts.prepare(self.image, self.recipe.visual_prompts, self.recipe)
                cam = enlarge(grid_cam, *self.image.shape[:2])
                mask: Bool[np.ndarray, "h w"] = cam > self.recipe.eta
                prompted = self.image if cam.sum() <= 1 else visual_prompts.apply_prompts(behind, mask)
                crops.append(classifier.crop(prompted, self.classifier.image_size))
        return crops

    def score(self, crops: Sequence[UInt8[np.ndarray, "size size 3"]], words: Sequence[str]) -> Float[np.ndarray, " n"]:
        """Return the diagonal of P; crops and texts are encoded once per template."""
        total = torch.zeros(len(crops), len(words), device=self.classifier.device)
        for template in self.vocabulary.classifier_templates:
            texts = self.classifier_texts([template.format(word) for word in words])
            total += (self.classifier.scale * self.encode_crops(crops) @ texts.T).softmax(-1)
        return total.softmax(-1).diagonal().cpu().numpy()

    def classifier_texts(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Embed one template's texts, all 77 positions."""
        with self._timed(Unit.TEXT_G, len(texts)):
            return self.classifier.texts(texts, context=CONTEXT)

    @torch.no_grad()
    def encode_crops(self, crops: Sequence[UInt8[np.ndarray, "size size 3"]]) -> Float[Tensor, "n d"]:
        """Encode all crops of a step as one batch, every block with its attention map like the official wrapper."""
        with self._timed(Unit.CROP, len(crops)):
            encoder = self.classifier
            images = encoder.normalise(torch.from_numpy(np.stack(crops)))
            tokens = encoder.embed(images, round_positions=True)
            tokens, _ = encoder.blocks(tokens, 0, encoder.depth - 1, attention_from=0)
            return torch.nn.functional.normalize(encoder.project(tokens[:, 0]).float(), dim=-1)

    @contextmanager
    def _timed(self, unit: Unit, count: int = 1) -> Iterator[None]:
        start = self.clock()
        yield
        self.spent[unit] = self.spent.get(unit, 0.0) + self.clock() - start
        self.done[unit] += count


def _check_official(vocabulary: Vocabulary, recipe: Recipe) -> None:
    if recipe.mode is not Mode.SEMANTIC or not vocabulary.classifier_templates:
        raise ValueError("the official scheme supports only semantic recipes with classifier templates")
    if any(len(label.prompts) > 1 for label in vocabulary.labels) or recipe.stuff:
        raise ValueError("the official scheme supports one prompt per label and one pass")
    if Arithmetic.PAPER in (recipe.classifier_depth, recipe.cam_text, recipe.position_rounding, recipe.stop):
        raise ValueError("the official scheme supports only official arithmetic")
