"""Training of both models' vision tower: name the colour and the shape of every patch of an object.

Small dense images, no text and no CAM, so a step costs a fifth of one of the later stages. Shapes come slowly to a
vision transformer: without this stage neither model knows more than colours after half an hour.
"""

from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from demo.clip_models import PROPOSAL, block, create_folder, embed, prime
from demo.drawing import COLOURS, SHAPES
from demo.proposal_training import collate, normalised
from demo.scenes import SceneStyle, Split, draw_scene, generator

SIDES: Final[tuple[tuple[int, float], ...]] = ((96, 0.6), (128, 0.25), (160, 0.15))
"""Side of the square images of a step, and its probability."""

PATCHES_A_STEP: Final = 1800
SMALLEST_RADIUS, LARGEST_RADIUS = 13.0, 48.0
"""Pixels."""

_PRIMING_SCENES: Final = 400


class FactorReadout(nn.Module):
    """Auxiliary head of training that reads colour, shape and presence of an object from each patch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, len(COLOURS) + len(SHAPES) + 1)

    def loss(
        self, tokens: Float[Tensor, "b patches c"], coverage: Float[Tensor, "b words gh gw"]
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the loss and its parts. Patches are weighted by their share of objects: most show none."""
        words = coverage.flatten(2).transpose(1, 2)
        words = words.reshape(*words.shape[:2], len(COLOURS), len(SHAPES))
        colour, shape, present = self.linear(tokens).split([len(COLOURS), len(SHAPES), 1], 2)
        total = words.sum()
        named = -(words.sum(3) * colour.log_softmax(2)).sum() / total
        formed = -(words.sum(2) * shape.log_softmax(2)).sum() / total
        presence = nn.functional.binary_cross_entropy_with_logits(present[..., 0], words.sum((2, 3)).clamp(0, 1))
        inner = words.sum((2, 3)) > 0.4  # noqa: PLR2004 (mostly object)
        right = (shape.argmax(2) == words.sum(2).argmax(2))[inner].float().mean()
        parts = {"colour": float(named.detach()), "shape": float(formed.detach()), "right": float(right)}
        return named + formed + presence, parts


class TrunkStage:
    """The vision tower up to the last block."""

    def __init__(self, folder: Path) -> None:
        self.model, _ = create_folder(folder, PROPOSAL)
        self.readout = FactorReadout(PROPOSAL.width)
        rng = generator(Split.PRIMING, 0)
        prime(self.model, normalised(np.stack([draw_scene(rng).image for _ in range(_PRIMING_SCENES)])))

    def modules(self) -> nn.ModuleList:
        return nn.ModuleList([self.model.vision_model, self.readout])

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        sides, chances = zip(*SIDES, strict=True)
        side = int(rng.choice(sides, p=chances))
        count = PATCHES_A_STEP // (side // PROPOSAL.patch) ** 2
        style = SceneStyle(
            objects=(1, 4), radius=(SMALLEST_RADIUS / side, min(0.42, LARGEST_RADIUS / side)), overlap=0.6
        )
        batch = collate([draw_scene(rng, size=(side, side), style=style) for _ in range(count)])
        layers = self.model.vision_model.encoder.layers
        with torch.autocast("cpu", torch.bfloat16):
            tokens = embed(self.model, batch.pixels)
            for layer in layers[:-1]:
                tokens, _ = block(layer, tokens, PROPOSAL.heads)
        return self.readout.loss(layers[-1].layer_norm1(tokens.float())[:, 1:], batch.coverage)
