"""Training of the tiny SAM: for a point, the mask of the object at it and the predicted quality of that mask.

A point on the background has no target mask and a target quality of 0, so that automatic masks are objects.
"""

import json
import math
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from demo.drawing import chance
from demo.sam_dataset import SCENES_A_STEP, TINY, WINDOWED, SamSample, make_sample, random_scene
from worker.segmenter.sam.network import build

_FREQUENCIES: Final = (0.4, 2.5)
"""Lowest and highest frequency of the points' random Fourier features, times SAM's own."""

_QUIET: Final = 0.3
"""Scale of everything that is added to positions in queries and keys, times the package's own."""

_POSITION_GAIN: Final = 2.5
"""Gain of the projections that compare positions: the few nearest patches get nearly all of the attention."""

_DECIDED: Final = 12.0
"""Difference of the target logits between covered and uncovered pixels. With the shares themselves as targets the
boundaries of small masks would be too uncertain for the generator's stability score.
"""

_CONTACT: Final = 5
"""Weight of pixels near the object and near another one, where masks leak."""

_RIVAL: Final = 0.8
"""Weight of the other objects, near or far."""

_FINE: Final = 0.05
"""Errors of the predicted quality below this count squared, larger ones linearly. Leaking changes the quality by a
hundredth; squared large errors would dominate the loss of the masks.
"""


class SamStage:
    """SAM without its mask and box prompts."""

    def __init__(self, _folder: Path) -> None:
        self.model = build(TINY).train()
        first_weights(self.model)

    def modules(self) -> nn.ModuleList:
        return nn.ModuleList([self.model])

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        windowed = chance(rng, WINDOWED)
        samples = [make_sample(rng, random_scene(rng), windowed=windowed) for _ in range(SCENES_A_STEP[windowed])]
        embeddings = encode(self.model, samples)
        totals, masked, judged, ious = [], [], [], []
        for sample, embedding in zip(samples, embeddings, strict=True):
            logits, quality = decode(self.model, embedding, sample)
            costs = mask_loss(logits, sample.masks, sample.rivals)[sample.on_object]
            reached = overlap(logits, sample.masks) * sample.on_object[:, None]
            # The object is the target of all four masks. With the loss of the best one only, as for ambiguous points,
            # each learned to guess one object wherever the point was.
            mask = _tempered(costs).sum() / max(1, costs.numel())
            judge = 0.5 * F.smooth_l1_loss(quality, reached, beta=_FINE)
            totals.append(mask + judge)
            masked.append(float(mask.detach()))
            judged.append(float(judge.detach()))
            ious.append(float(reached[sample.on_object, 1:].sum()) / max(1, costs[:, 1:].numel()))
        parts = {"mask": float(np.mean(masked)), "quality": float(np.mean(judged)), "iou": float(np.mean(ious))}
        return torch.stack(totals).mean(), parts


def first_weights(model: Sam) -> None:
    """Initialise random weights so that all tokens attend to the patches around the point from the first step.

    Queries and keys contain the Fourier features of their positions. With equal projections their product is largest
    where the positions agree; the first self-attention passes the point's features to the tokens of the masks. With the
    package's own random weights masks still were of arbitrary objects after hours.
    """
    nn.init.trunc_normal_(model.image_encoder.pos_embed, std=0.02)
    prompts, decoder = model.prompt_encoder, model.mask_decoder
    features = prompts.pe_layer.positional_encoding_gaussian_matrix
    slowest, fastest = (math.log10(frequency) for frequency in _FREQUENCIES)
    features.mul_(torch.logspace(slowest, fastest, features.shape[1]))
    layers = list(decoder.transformer.layers)
    to_image = [layer.cross_attn_token_to_image for layer in layers] + [decoder.transformer.final_attn_token_to_image]
    for attention in (*to_image, *(layer.cross_attn_image_to_token for layer in layers)):
        nn.init.orthogonal_(attention.q_proj.weight, gain=_POSITION_GAIN)
        attention.k_proj.weight.data.copy_(attention.q_proj.weight)
    for projection in (layers[0].self_attn.v_proj, layers[0].self_attn.out_proj):
        nn.init.eye_(projection.weight)
    # Everything that is added to positions must be smaller than they are.
    embeddings = (*prompts.point_embeddings, prompts.not_a_point_embed, prompts.no_mask_embed)
    for embedding in (*embeddings, decoder.iou_token, decoder.mask_tokens):
        embedding.weight.data.mul_(_QUIET)
    for norm in (model.image_encoder.neck[3], *(layer.norm4 for layer in layers)):
        norm.weight.data.mul_(_QUIET)


def encode(model: Sam, samples: list[SamSample]) -> Float[Tensor, "b c g g"]:
    """Return image embeddings of samples with windows of one size, which see a part of the encoder's positions."""
    encoder = model.image_encoder
    positions = encoder.pos_embed.permute(0, 3, 1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = encoder.patch_embed(torch.stack([sample.pixels for sample in samples]))
        tokens = tokens + torch.cat([sample.window.from_mask(positions) for sample in samples]).permute(0, 2, 3, 1)
        for block in encoder.blocks:
            tokens = block(tokens)
        embeddings = encoder.neck(tokens.permute(0, 3, 1, 2))
    return torch.as_tensor(embeddings.float())


def decode(
    model: Sam, embedding: Float[Tensor, "c g g"], sample: SamSample
) -> tuple[Float[Tensor, "k 4 m m"], Float[Tensor, "k 4"]]:
    """Return mask logits and predicted IoU of all four mask tokens; the last three are SAM's multimask output."""
    sparse, dense = model.prompt_encoder(
        points=(sample.points[:, None], torch.ones(len(sample.points), 1)), boxes=None, masks=None
    )
    positions = sample.window.from_mask(model.prompt_encoder.get_dense_pe())
    with torch.autocast("cpu", torch.bfloat16):
        logits, quality = model.mask_decoder.predict_masks(
            embedding[None], positions, sparse, sample.window.from_mask(dense)
        )
    return logits.float(), quality.float()


def mask_loss(
    logits: Float[Tensor, "k 4 m m"], masks: Float[Tensor, "k m m"], rivals: Float[Tensor, "k m m"]
) -> Float[Tensor, "k 4"]:
    """Return weighted cross-entropy plus Dice. The weight is 1 inside the object, 0.2 far from it, 2 at its boundary,
    and largest where the object touches a rival.
    """
    target = ((masks - 0.5) * _DECIDED).sigmoid()[:, None].expand_as(logits)
    near = F.max_pool2d(masks[:, None], 5, stride=1, padding=2)
    inner = -F.max_pool2d(-masks[:, None], 5, stride=1, padding=2)
    contact = F.max_pool2d(masks[:, None], 7, stride=1, padding=3) * F.max_pool2d(
        rivals[:, None], 7, stride=1, padding=3
    )
    weight = 0.2 + 0.8 * near + (near - inner) + _RIVAL * rivals[:, None] + _CONTACT * contact
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    entropy = entropy - F.binary_cross_entropy(target, target, reduction="none")
    entropy = (entropy * weight).sum((2, 3)) / weight.sum((2, 3))
    share = logits.sigmoid()
    both = (share * masks[:, None]).sum((2, 3))
    dice = 1 - (2 * both + 1) / (share.sum((2, 3)) + masks[:, None].sum((2, 3)) + 1)
    return entropy + dice


def _tempered(costs: Float[Tensor, "*k"]) -> Float[Tensor, "*k"]:
    """Limit the loss of completely wrong masks, so that the boundaries of nearly right ones still count."""
    return costs / (1 + costs)


@torch.no_grad()
def overlap(logits: Float[Tensor, "k 4 m m"], masks: Float[Tensor, "k m m"]) -> Float[Tensor, "k 4"]:
    """Return the IoU of each mask with its target."""
    predicted, target = logits > 0, (masks > 0.5)[:, None]  # noqa: PLR2004 - half a pixel
    return (predicted & target).sum((2, 3)) / (predicted | target).sum((2, 3)).clamp_min(1)


def save_sam(model: Sam, folder: Path) -> None:
    """Write config.json and model.safetensors in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(TINY.to_json(), indent=2) + "\n")
    tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")


def load_sam(folder: Path) -> dict[str, Tensor]:
    """Return the weights of `save_sam` in float32."""
    return {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
