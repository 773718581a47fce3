"""Finetuning of the classifier on the proposals of the trained f, for present and for absent words.

Drawn masks teach the look of shapes under a visual prompt; the proposals add f's own errors: missing corners, parts of
a neighbour, the wrong object for an absent word. It needs a trained proposal generator.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file
from torch import Tensor

from car.clip_tokenizer import ClipTokenizer
from car.presets import preset
from car.vocabulary import Vocabulary
from demo.classifier_training import SIZES, ClassifierStage, crop_batch
from demo.clip_models import CLASSIFIER, WEIGHTS
from demo.crops import Crop, crop_of, random_prompts
from demo.drawing import SHAPES, chance
from demo.scenes import WORDS, Scene, Split, draw_scene, generator
from worker.segmenter import proposals
from worker.segmenter.clip.encoder import Encoder
from worker.segmenter.clip.network import ClipNetwork, ClipSizes
from worker.segmenter.resizing import enlarge

SCENES: Final = 1800
ABSENT_A_SCENE: Final = 4
CROPS_A_STEP: Final = 40
DRAWN_SHARE: Final = 0.25
"""Share of the steps that still show drawn masks, so that those are not forgotten."""
ETA: Final = (0.08, 0.3)
"""Range of thresholds of CAMs; wider than any recipe's, so that eta can be tuned afterwards."""


@dataclass(frozen=True)
class Proposer:
    """A trained f with the embeddings of all words."""

    encoder: Encoder
    raw: Float[Tensor, "n d"]
    templated: Float[Tensor, "n d"]
    background: Float[Tensor, "m d"]

    @classmethod
    def from_models(cls, folder: Path) -> "Proposer":
        sizes = ClipSizes.from_config(json.loads((folder / "config.json").read_text()))
        tensors = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
        tokenizer = ClipTokenizer.from_text((folder / "merges.txt").read_text())
        encoder = Encoder(ClipNetwork.from_tensors(sizes, tensors), tokenizer)
        vocabulary = Vocabulary.from_words(WORDS)
        template = vocabulary.cam_template
        return cls(
            encoder,
            encoder.texts(WORDS),
            encoder.texts([template.format(word) for word in WORDS]),
            encoder.texts([template.format(word) for word in vocabulary.background]),
        )

    def masks(self, scene: Scene, rng: np.random.Generator) -> list[Bool[np.ndarray, "h w"]]:
        """Return proposals for the present words and a few absent ones, as a step of the recurrence makes them."""
        present = [WORDS.index(word) for word in scene.words]
        absent = [k for k in rng.permutation(len(WORDS)).tolist() if k not in present]
        # Absent words of a present colour are the most frequent errors: their CAMs cover the image or a wrong shape.
        absent.sort(key=lambda k: chance(rng, 0.75) and not {k // len(SHAPES)} & {p // len(SHAPES) for p in present})
        # All words compete in step 1, only survivors later.
        first = chance(rng, 0.6)
        competing = [*present, *absent] if first else [*present, *absent[: int(rng.integers(1, 5))]]
        rows = [*range(len(present)), *range(len(present), min(len(competing), len(present) + ABSENT_A_SCENE))]
        cams = self._cams(scene, self.raw[competing] if first else self.templated[competing])
        height, width = scene.labels.shape
        return [enlarge(cams[k], height, width) > rng.uniform(*ETA) for k in rows]

    def _cams(self, scene: Scene, texts: Float[Tensor, "n d"]) -> Float[np.ndarray, "n rows columns"]:
        recipe = preset("demo")
        [encoded] = proposals.encode(self.encoder, [scene.image], recipe, batch_size=1)
        logits = self.encoder.scale * texts @ encoded.z
        behind = self.encoder.scale * self.background @ encoded.z
        center = torch.cat([texts, self.background]).mean(0)
        m = encoded.maps(torch.cat([texts, behind.softmax(0)[None] @ self.background]) - center)
        cams = proposals.gradcams(m[:-1], logits, m[-1], behind.logsumexp(0))
        assert encoded.affinity is not None, "the demo recipe refines by affinity"  # noqa: S101
        refined = proposals.refine(cams, encoded.affinity, encoded.grid, recipe)
        return refined.numpy().reshape(-1, *encoded.grid)


def collect_crops(proposer: Proposer, count: int) -> list[Crop]:
    """Return crops of `count` new scenes and print progress."""
    crops: list[Crop] = []
    start = time.monotonic()
    for number in range(count):
        rng = generator(Split.REHEARSAL, number)
        scene = draw_scene(rng, size=SIZES[rng.integers(len(SIZES))])
        masks = proposer.masks(scene, rng)
        crops += [crop_of(scene, mask, random_prompts(rng), CLASSIFIER.image_size) for mask in masks]
        if number % 50 == 0:
            print(f"{number}/{count} scenes, {time.monotonic() - start:.0f} s", flush=True)  # noqa: T201
    return crops


class FinetuningStage(ClassifierStage):
    """The classifier, trained further on f's proposals."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._crops = collect_crops(Proposer.from_models(WEIGHTS / "proposal"), SCENES)

    def crops(self, rng: np.random.Generator) -> list[Crop]:
        if chance(rng, DRAWN_SHARE):
            return crop_batch(rng)
        return [self._crops[k] for k in rng.integers(len(self._crops), size=CROPS_A_STEP)]
