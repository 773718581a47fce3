"""Training of the classifier: name the prompted object among any other words.

CaR reads the class token after the second to last block, so the main loss is there.
"""

from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from transformers import CLIPModel

from car.text_data import CLASSIFIER_TEMPLATES
from demo.clip_models import CLASSIFIER, block, create_folder, embed
from demo.crops import Crop, draw_crop
from demo.proposal_training import PatchReadout, normalised, word_coverage
from demo.scenes import WORDS, draw_scene
from demo.texts import Texts, text_features

SIZES: Final = (*(((160, 160),) * 3), (128, 128), (203, 151), (240, 240), (320, 240))
"""(width, height) of training scenes."""

SCENES_A_STEP: Final = 10
CROPS_A_SCENE: Final = 4
TEMPLATES_A_STEP: Final = 3
LAST_BLOCK_WEIGHT: Final = 0.15
PATCH_WEIGHT: Final = 0.3
READOUT_BLOCK: Final = 6
"""After this many blocks the auxiliary loss names each patch."""


def crop_batch(rng: np.random.Generator) -> list[Crop]:
    """Draw several crops of each of several new scenes."""
    crops = []
    for _ in range(SCENES_A_STEP):
        scene = draw_scene(rng, size=SIZES[rng.integers(len(SIZES))])
        crops += [draw_crop(rng, scene, CLASSIFIER.image_size) for _ in range(CROPS_A_SCENE)]
    return crops


def class_tokens(
    model: CLIPModel, pixels: Float32[Tensor, "b 3 s s"]
) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"], Float[Tensor, "b patches c"]]:
    """Return normalised image features after the second to last block (CaR's) and after the last one (CLIP's), and the
    patches after READOUT_BLOCK.
    """
    vision = model.vision_model
    outputs = []
    with torch.autocast("cpu", torch.bfloat16):
        tokens = embed(model, pixels)
        for layer in vision.encoder.layers:
            tokens, _ = block(layer, tokens, CLASSIFIER.heads)
            outputs.append(tokens)
    before, after = (
        nn.functional.normalize(model.visual_projection(vision.post_layernorm(x[:, 0].float())), dim=-1)
        for x in outputs[-2:]
    )
    return before, after, outputs[READOUT_BLOCK - 1][:, 1:].float()


def classifier_loss(
    model: CLIPModel, readout: PatchReadout, texts: Texts, crops: list[Crop], rng: np.random.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of one batch and its parts; `right` is the accuracy on crops with one clear word."""
    target = torch.from_numpy(np.stack([crop.target for crop in crops]))
    before, after, patches = class_tokens(model, normalised(np.stack([crop.image for crop in crops])))
    chosen = [CLASSIFIER_TEMPLATES[k] for k in rng.permutation(len(CLASSIFIER_TEMPLATES))[:TEMPLATES_A_STEP]]
    words = text_features(model, torch.cat([texts.tokens[name][: len(WORDS)] for name in chosen]))
    words = words.reshape(len(chosen), len(WORDS), -1)
    allowed = _competitors(target, rng)
    scale = model.logit_scale.exp()
    main = _divergence(scale * before @ words.transpose(1, 2), target, allowed)
    last = _divergence(scale * after @ words.transpose(1, 2), target, allowed)
    coverage = np.stack([word_coverage(crop.visible, CLASSIFIER.patch) for crop in crops])
    patch = readout.loss(patches, torch.from_numpy(coverage))
    with torch.no_grad():
        clear = target.amax(1) > 0.6  # noqa: PLR2004 (one word dominates)
        right = ((before @ words[0].T).argmax(1) == target.argmax(1))[clear].float().mean()
    parts = {name: float(value.detach()) for name, value in (("main", main), ("last", last), ("patch", patch))}
    return main + LAST_BLOCK_WEIGHT * last + PATCH_WEIGHT * patch, parts | {"right": float(right)}


def _competitors(target: Float32[Tensor, "b words"], rng: np.random.Generator) -> Tensor:
    """Return the words that share the softmax of each crop: all in half of the cases, else the true ones and a few."""
    count, words = target.shape
    few = rng.random((count, words)) < rng.uniform(0.05, 0.6, (count, 1))
    allowed = torch.from_numpy(few | (rng.choice([True, False], (count, 1)))) | (target > 0.1)  # noqa: PLR2004 (a tenth)
    allowed[:, 0] |= ~allowed.any(1)
    return allowed


def _divergence(
    logits: Float[Tensor, "templates b words"], target: Float32[Tensor, "b words"], allowed: Tensor
) -> Tensor:
    """Return the KL divergence between the target among the allowed words and the softmax over them."""
    log_p = logits.masked_fill(~allowed, -1e4).log_softmax(2)
    target = target * allowed
    target = target / target.sum(1, keepdim=True)
    entropy = (target * target.clamp(min=1e-9).log()).sum(1)
    return (entropy - (target * log_p.clamp(min=-100)).sum(2)).mean()


class ClassifierStage:
    def __init__(self, folder: Path) -> None:
        self.model, tokenizer = create_folder(folder, CLASSIFIER)
        self.readout = PatchReadout(CLASSIFIER.width)
        self.texts = Texts.tokenize(tokenizer)

    def modules(self) -> nn.ModuleList:
        return nn.ModuleList([self.model, self.readout])

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        return classifier_loss(self.model, self.readout, self.texts, self.crops(rng), rng)

    def crops(self, rng: np.random.Generator) -> list[Crop]:
        """Return the crops of one step."""
        return crop_batch(rng)
