"""How the tiny SAM learns: a point is shown, the mask of the object under it is wanted, and how good the mask came out.

A point on plain ground asks for no mask at all, only for a predicted quality of 0: so that automatic masks are objects.
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
"""Slowest and fastest of the points' random Fourier features, times SAM's own: half a picture to a patch or two."""

_QUIET: Final = 0.3
"""Size of everything else that queries and keys are the sum of, times the package's own."""

_NEARNESS: Final = 2.5
"""Gain of the projections that compare places: the nearest patches get nearly all of the attention, not one alone."""

_DECIDED: Final = 12.0
"""Logits from a pixel that the object does not cover to one that it covers. Were shares asked for as they are, the
rims of all small masks would be too uncertain for the generator's stability score.
"""

_CONTACT: Final = 5
"""Weight of what lies near the object and near another one: where masks bleed."""

_RIVAL: Final = 0.8
"""Weight of the other objects, near or far."""

_FINE: Final = 0.05
"""Errors of the predicted quality that count by their square. What tells a mask that bleeds from one that does not is
a hundredth; larger errors count as they are, or the few of them would outshout the masks.
"""


class SamStage:
    """All of SAM but its mask and box prompts."""

    def __init__(self, _folder: Path) -> None:
        self.model = build(TINY).train()
        first_weights(self.model)

    def modules(self) -> nn.ModuleList:
        return nn.ModuleList([self.model])

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Loss on fresh scenes, and its named parts."""
        windowed = chance(rng, WINDOWED)
        lessons = [make_sample(rng, random_scene(rng), windowed=windowed) for _ in range(SCENES_A_STEP[windowed])]
        embeddings = encode(self.model, lessons)
        totals, masked, judged, ious = [], [], [], []
        for one, embedding in zip(lessons, embeddings, strict=True):
            logits, quality = decode(self.model, embedding, one)
            costs = mask_loss(logits, one.masks, one.rivals)[one.on_object]
            reached = overlap(logits, one.masks) * one.on_object[:, None]
            # All four masks are asked for the object. Counting the best alone, as where a point may mean several
            # things, taught them to guess one object each, wherever the point was.
            mask = _tempered(costs).sum() / max(1, costs.numel())
            judge = 0.5 * F.smooth_l1_loss(quality, reached, beta=_FINE)
            totals.append(mask + judge)
            masked.append(float(mask.detach()))
            judged.append(float(judge.detach()))
            ious.append(float(reached[one.on_object, 1:].sum()) / max(1, costs[:, 1:].numel()))
        parts = {"mask": float(np.mean(masked)), "quality": float(np.mean(judged)), "iou": float(np.mean(ious))}
        return torch.stack(totals).mean(), parts


def first_weights(model: Sam) -> None:
    """Random weights of which one thing holds from the first step on: all tokens look at the patches around the point.

    Queries and keys carry the Fourier features of their places. Projected alike, their product peaks where the places
    agree; the first self-attention hands the point's features on to the tokens of the masks. With the package's own
    random weights all that has to be found out first: after hours the masks still were of any object at all.
    """
    nn.init.trunc_normal_(model.image_encoder.pos_embed, std=0.02)
    prompts, decoder = model.prompt_encoder, model.mask_decoder
    features = prompts.pe_layer.positional_encoding_gaussian_matrix
    slowest, fastest = (math.log10(one) for one in _FREQUENCIES)
    features.mul_(torch.logspace(slowest, fastest, features.shape[1]))
    layers = list(decoder.transformer.layers)
    to_image = [layer.cross_attn_token_to_image for layer in layers] + [decoder.transformer.final_attn_token_to_image]
    for attention in (*to_image, *(layer.cross_attn_image_to_token for layer in layers)):
        nn.init.orthogonal_(attention.q_proj.weight, gain=_NEARNESS)
        attention.k_proj.weight.data.copy_(attention.q_proj.weight)
    for projection in (layers[0].self_attn.v_proj, layers[0].self_attn.out_proj):
        nn.init.eye_(projection.weight)
    # What is added to places must be smaller than they are, or it drowns them.
    embeddings = (*prompts.point_embeddings, prompts.not_a_point_embed, prompts.no_mask_embed)
    for embedding in (*embeddings, decoder.iou_token, decoder.mask_tokens):
        embedding.weight.data.mul_(_QUIET)
    for norm in (model.image_encoder.neck[3], *(layer.norm4 for layer in layers)):
        norm.weight.data.mul_(_QUIET)


def encode(model: Sam, lessons: list[SamSample]) -> Float[Tensor, "b c g g"]:
    """Image embeddings of lessons whose windows are of one size: SAM's image encoder with a part of its positions."""
    encoder = model.image_encoder
    positions = encoder.pos_embed.permute(0, 3, 1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = encoder.patch_embed(torch.stack([one.pixels for one in lessons]))
        tokens = tokens + torch.cat([one.window.of(positions) for one in lessons]).permute(0, 2, 3, 1)
        for block in encoder.blocks:
            tokens = block(tokens)
        embeddings = encoder.neck(tokens.permute(0, 3, 1, 2))
    return torch.as_tensor(embeddings.float())


def decode(
    model: Sam, embedding: Float[Tensor, "c g g"], one: SamSample
) -> tuple[Float[Tensor, "k 4 m m"], Float[Tensor, "k 4"]]:
    """Mask logits and predicted IoU of all four mask tokens; the last three are those of SAM's multimask output."""
    sparse, dense = model.prompt_encoder(
        points=(one.points[:, None], torch.ones(len(one.points), 1)), boxes=None, masks=None
    )
    positions = one.window.of(model.prompt_encoder.get_dense_pe())
    with torch.autocast("cpu", torch.bfloat16):
        logits, quality = model.mask_decoder.predict_masks(embedding[None], positions, sparse, one.window.of(dense))
    return logits.float(), quality.float()


def mask_loss(
    logits: Float[Tensor, "k 4 m m"], masks: Float[Tensor, "k m m"], rivals: Float[Tensor, "k m m"]
) -> Float[Tensor, "k 4"]:
    """Cross-entropy, plus Dice: far away from the object it weighs a fifth of what it does inside, at the rim twice,
    and most where the object touches a rival.
    """
    wanted = ((masks - 0.5) * _DECIDED).sigmoid()[:, None].expand_as(logits)
    near = F.max_pool2d(masks[:, None], 5, stride=1, padding=2)
    deep = -F.max_pool2d(-masks[:, None], 5, stride=1, padding=2)
    contact = F.max_pool2d(masks[:, None], 7, stride=1, padding=3) * F.max_pool2d(
        rivals[:, None], 7, stride=1, padding=3
    )
    weight = 0.2 + 0.8 * near + (near - deep) + _RIVAL * rivals[:, None] + _CONTACT * contact
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none") - _entropy(wanted)
    entropy = (entropy * weight).sum((2, 3)) / weight.sum((2, 3))
    share = logits.sigmoid()
    both = (share * masks[:, None]).sum((2, 3))
    dice = 1 - (2 * both + 1) / (share.sum((2, 3)) + masks[:, None].sum((2, 3)) + 1)
    return entropy + dice


def _tempered(costs: Float[Tensor, "*k"]) -> Float[Tensor, "*k"]:
    """Masks that are wrong altogether must not outshout the rims of those that are nearly right."""
    return costs / (1 + costs)


def _entropy(share: Float[Tensor, "*k"]) -> Float[Tensor, "*k"]:
    """What the cross-entropy of the very same shares would cost."""
    return F.binary_cross_entropy(share, share, reduction="none")


@torch.no_grad()
def overlap(logits: Float[Tensor, "k 4 m m"], masks: Float[Tensor, "k m m"]) -> Float[Tensor, "k 4"]:
    """IoU that each mask reaches."""
    found, wanted = logits > 0, (masks > 0.5)[:, None]  # noqa: PLR2004 - half a pixel
    both = (found & wanted).sum((2, 3))
    either = (found | wanted).sum((2, 3)).clamp_min(1)
    return both / either


def save_sam(model: Sam, folder: Path) -> None:
    """Write config.json and model.safetensors, half precision: half the size in git."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(TINY.to_json(), indent=2) + "\n")
    tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")


def load_sam(folder: Path) -> dict[str, Tensor]:
    """What `save_sam` wrote, float32."""
    return {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
