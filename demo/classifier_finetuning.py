"""The classifier's last lesson: the very proposals of the trained f, of words that are there and of words that are not.

Drawn masks teach what shapes look like under a visual prompt; how f errs (corners cut off, a neighbour half included,
the wrong object for an absent word) only f can show. Needs a trained proposal generator.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from car.presets import preset
from car.vocabulary import Vocabulary
from demo.classifier_training import SIZES, ClassifierStage, crop_batch
from demo.clip_models import CLASSIFIER, WEIGHTS
from demo.crops import Crop, crop_of, random_prompts
from demo.drawing import SHAPES, chance
from demo.scenes import WORDS, Scene, Split, draw_scene, generator
from worker.segmenter import proposals
from worker.segmenter.clip.encoder import Encoder
from worker.segmenter.resizing import enlarge

SCENES: Final = 1800
ABSENT_A_SCENE: Final = 4
CROPS_A_STEP: Final = 40
DRAWN_SHARE: Final = 0.25
"""Of the steps that still show drawn masks, so that what was learnt of them stays."""
ETA: Final = (0.08, 0.3)
"""Thresholds at which a CAM becomes a mask; wider than any recipe's, so that eta can be tuned afterwards."""


@dataclass(frozen=True)
class Proposer:
    """A trained f with the embeddings of all words."""

    encoder: Encoder
    raw: Float[Tensor, "n d"]
    templated: Float[Tensor, "n d"]
    background: Float[Tensor, "m d"]

    @classmethod
    def of(cls, folder: Path) -> "Proposer":
        model = CLIPModel.from_pretrained(folder).float().eval().requires_grad_(requires_grad=False)
        encoder = Encoder(model, CLIPTokenizer.from_pretrained(folder))
        vocabulary = Vocabulary.of(WORDS)
        template = vocabulary.cam_template
        return cls(
            encoder,
            encoder.texts(WORDS),
            encoder.texts([template.format(word) for word in WORDS]),
            encoder.texts([template.format(word) for word in vocabulary.background]),
        )

    def masks(self, scene: Scene, rng: np.random.Generator) -> list[Bool[np.ndarray, "h w"]]:
        """Proposals for the words that are there and a few that are not, as some step of the recurrence makes them."""
        present = [WORDS.index(word) for word in scene.words]
        absent = [k for k in rng.permutation(len(WORDS)).tolist() if k not in present]
        # Words of a colour that is there deceive most: their CAMs flood the picture or lie on the wrong shape.
        absent.sort(key=lambda k: chance(rng, 0.75) and not {k // len(SHAPES)} & {p // len(SHAPES) for p in present})
        # Step 1 has every word compete, later steps only survivors.
        first = chance(rng, 0.6)
        competing = [*present, *absent] if first else [*present, *absent[: int(rng.integers(1, 5))]]
        shown = [*range(len(present)), *range(len(present), min(len(competing), len(present) + ABSENT_A_SCENE))]
        cams = self._cams(scene, self.raw[competing] if first else self.templated[competing])
        height, width = scene.labels.shape
        return [enlarge(cams[k], height, width) > rng.uniform(*ETA) for k in shown]

    def _cams(self, scene: Scene, texts: Float[Tensor, "n d"]) -> Float[np.ndarray, "n rows columns"]:
        recipe = preset("demo")
        [encoded] = proposals.encode(self.encoder, [scene.image], recipe, at_once=1)
        logits = self.encoder.scale * texts @ encoded.z
        behind = self.encoder.scale * self.background @ encoded.z
        centre = torch.cat([texts, self.background]).mean(0)
        m = encoded.maps(torch.cat([texts, behind.softmax(0)[None] @ self.background]) - centre)
        cams = proposals.gradcams(m[:-1], logits, m[-1], behind.logsumexp(0))
        assert encoded.affinity is not None, "the demo recipe refines by affinity"  # noqa: S101
        refined = proposals.refine(cams, encoded.affinity, encoded.grid, recipe)
        return refined.numpy().reshape(-1, *encoded.grid)


def collect_crops(proposer: Proposer, count: int) -> list[Crop]:
    """Crops of `count` fresh scenes, with a progress line every few seconds."""
    crops: list[Crop] = []
    started = told = time.monotonic()
    for number in range(count):
        rng = generator(Split.REHEARSAL, number)
        scene = draw_scene(rng, size=SIZES[rng.integers(len(SIZES))])
        masks = proposer.masks(scene, rng)
        crops += [crop_of(scene, mask, random_prompts(rng), CLASSIFIER.image_size) for mask in masks]
        if time.monotonic() - told > 5:  # noqa: PLR2004 (seconds)
            told = time.monotonic()
            rate = (number + 1) / (told - started)
            left = (count - number - 1) / rate
            print(f"{number + 1}/{count} scenes proposed  {rate:.1f} a second  {left:.0f} s to go", flush=True)  # noqa: T201
    return crops


class FinetuningStage(ClassifierStage):
    """The classifier again, on what f proposes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._crops = collect_crops(Proposer.of(WEIGHTS / "proposal"), SCENES)

    def crops(self, rng: np.random.Generator) -> list[Crop]:
        if chance(rng, DRAWN_SHARE):
            return crop_batch(rng)
        return [self._crops[k] for k in rng.integers(len(self._crops), size=CROPS_A_STEP)]
