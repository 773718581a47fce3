"""How the tiny SAM learns: a point is shown, the mask of the object under it is wanted, and how good the mask came out.

A point on plain ground asks for no mask at all, only for a predicted quality of 0: so that automatic masks are objects.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from safetensors.torch import load_file, save_file
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from demo.drawing import chance
from demo.scenes import Scene, SceneStyle, draw_scene
from worker.segmenter.sam_network import PIXEL_MEAN, PIXEL_STD, SamSizes, build

TINY: Final = SamSizes(
    image_size=256, patch=8, width=96, depth=4, heads=3, global_blocks=(1, 3), window=8, relative_positions=False,
    prompt_width=64, decoder_heads=2, decoder_mlp=256, quality_hidden=64, mask_prompt_width=8,
)  # fmt: skip

SIDES: Final = (128, 160, 160, 160, 192, 240, 320)
"""Pixels of a scene's sides before it is resized for SAM."""

WINDOWED: Final = 0.8
"""Share of the steps in which quarters of pictures are seen: they cost a quarter, and rims are learned there too."""

SCENES_A_STEP: Final = {True: 6, False: 3}
"""Windowed or not."""

POINTS_A_SCENE: Final = 6
ON_OBJECTS: Final = 0.75
"""Share of the points."""

_FREQUENCIES: Final = (0.4, 2.5)
"""Slowest and fastest of the points' random Fourier features, times SAM's own: half a picture to a patch or two."""

_QUIET: Final = 0.3
"""Size of everything else that queries and keys are the sum of, times the package's own."""

_NEARNESS: Final = 2.5
"""Gain of the projections that compare places: the nearest patches get nearly all of the attention, not one alone."""

_LEAST_VISIBLE: Final = 40
"""Pixels of an object that a point is put on."""


@dataclass(frozen=True)
class Window:
    """The square part of the padded picture that is seen, in patches."""

    top: int = 0
    left: int = 0
    side: int = TINY.grid

    def of(self, sheet: Tensor, scale: int = 1) -> Tensor:
        """The part of a tensor (..., h, w) with `scale` cells to a patch."""
        rows = slice(self.top * scale, (self.top + self.side) * scale)
        columns = slice(self.left * scale, (self.left + self.side) * scale)
        return sheet[..., rows, columns]


@dataclass(frozen=True)
class Lesson:
    """One picture, or a window of it, and some points in it."""

    window: Window
    pixels: Float32[Tensor, "3 s s"]
    """Normalised and padded, as SAM's image encoder takes it."""
    points: Float32[Tensor, "k 2"]
    """x, y in pixels of the whole resized picture."""
    masks: Float32[Tensor, "k m m"]
    """Share of each pixel of the low-resolution mask that shows the object; zero for points on the ground."""
    on_object: Bool[Tensor, " k"]


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
        lessons = [lesson(rng, random_scene(rng), windowed=windowed) for _ in range(SCENES_A_STEP[windowed])]
        embeddings = encode(self.model, lessons)
        totals, masked, judged, ious = [], [], [], []
        for one, embedding in zip(lessons, embeddings, strict=True):
            logits, quality = decode(self.model, embedding, one)
            costs = mask_loss(logits, one.masks)[one.on_object]
            reached = overlap(logits, one.masks) * one.on_object[:, None]
            # All four masks are asked for the object. Counting the best alone, as where a point may mean several
            # things, taught them to guess one object each, wherever the point was.
            mask = costs.sum() / max(1, costs.numel())
            judge = F.mse_loss(quality, reached)
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


def random_scene(rng: np.random.Generator) -> Scene:
    size = (int(rng.choice(SIDES)), int(rng.choice(SIDES)))
    if chance(rng, 0.6):
        size = (size[0], size[0])
    crowded = SceneStyle(objects=(2, 5), overlap=0.5, alike=0.3)
    return draw_scene(rng, size=size, style=crowded if chance(rng, 0.5) else SceneStyle())


def lesson(rng: np.random.Generator, scene: Scene, *, windowed: bool) -> Lesson:
    """Points on a scene, most of them on objects; an object is as likely whatever its size."""
    share = TINY.image_size / max(scene.labels.shape)
    window = random_window(rng, scene) if windowed else Window()
    objects = _objects(scene.labels)
    seen = np.full(objects.shape, -1)
    top, left, side = (round(patches * TINY.patch / share) for patches in (window.top, window.left, window.side))
    seen[top : top + side, left : left + side] = objects[top : top + side, left : left + side]
    counts = np.bincount(seen[seen > 0])
    candidates = np.flatnonzero(counts >= _LEAST_VISIBLE)
    points, wanted = [], []
    for _ in range(POINTS_A_SCENE):
        chosen = int(rng.choice(candidates)) if candidates.size and chance(rng, ON_OBJECTS) else 0
        y, x = _somewhere(rng, seen == chosen)
        # The prompt encoder adds half a pixel.
        points.append(((x + rng.random()) * share - 0.5, (y + rng.random()) * share - 0.5))
        wanted.append(chosen or -1)
    masks = torch.from_numpy(np.stack([_coverage(objects == one) for one in wanted]))
    return Lesson(
        window=window,
        pixels=window.of(prepared(scene.image), TINY.patch),
        points=torch.tensor(points, dtype=torch.float32),
        masks=window.of(masks, 4),
        on_object=torch.tensor([one > 0 for one in wanted]),
    )


def _objects(labels: np.ndarray) -> np.ndarray:
    """Connected parts of the label map, counted from 1: a point asks for one object, not for all of its word."""
    objects = np.zeros(labels.shape, np.int32)
    for word in np.unique(labels[labels > 0]):
        count, parts = cv2.connectedComponents((labels == word).astype(np.uint8), connectivity=8)
        parts[parts > 0] += objects.max()
        objects += parts if count else 0
    return objects


def random_window(rng: np.random.Generator, scene: Scene) -> Window:
    """A quarter of the square, aligned to the encoder's attention windows, with an object in it where there is one."""
    side = TINY.grid // 2
    share = TINY.grid / max(scene.labels.shape)
    y, x = _somewhere(rng, scene.labels > 0)
    steps = (TINY.grid - side) // TINY.window
    origins = [
        TINY.window * int(np.clip(round((place * share - side / 2) / TINY.window + rng.uniform(-0.5, 0.5)), 0, steps))
        for place in (y, x)
    ]
    return Window(top=origins[0], left=origins[1], side=side)


def _somewhere(rng: np.random.Generator, mask: Bool[np.ndarray, "h w"]) -> tuple[int, int]:
    places = np.flatnonzero(mask) if mask.any() else np.arange(mask.size)
    place = int(rng.choice(places))
    return place // mask.shape[1], place % mask.shape[1]


def _coverage(mask: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, "m m"]:
    """The mask on the padded square, at the mask decoder's resolution: a quarter of a patch."""
    side = 4 * TINY.grid
    height, width = mask.shape
    share = side / max(height, width)
    to = (max(1, round(width * share)), max(1, round(height * share)))
    padded = np.zeros((side, side), np.float32)
    shrinks = share < 1
    resized = cv2.resize(mask.astype(np.float32), to, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    padded[: to[1], : to[0]] = resized
    return padded


def prepared(image: np.ndarray) -> Float32[Tensor, "3 s s"]:
    """RGB bytes (h, w, 3) as SAM's image encoder takes them."""
    height, width = image.shape[:2]
    share = TINY.image_size / max(height, width)
    to = (max(1, int(width * share + 0.5)), max(1, int(height * share + 0.5)))
    shrinks = share < 1
    resized = cv2.resize(image, to, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    mean, std = np.array(PIXEL_MEAN, np.float32), np.array(PIXEL_STD, np.float32)
    padded = np.zeros((TINY.image_size, TINY.image_size, 3), np.float32)
    padded[: to[1], : to[0]] = (resized - mean) / std
    return torch.from_numpy(padded).permute(2, 0, 1).contiguous()


def encode(model: Sam, lessons: list[Lesson]) -> Float[Tensor, "b c g g"]:
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
    model: Sam, embedding: Float[Tensor, "c g g"], one: Lesson
) -> tuple[Float[Tensor, "k 4 m m"], Float[Tensor, "k 4"]]:
    """Mask logits and predicted IoU of all four mask tokens; the last three are those of SAM's multimask output."""
    sparse, dense = model.prompt_encoder(
        points=(one.points[:, None], torch.ones(len(one.points), 1)), boxes=None, masks=None
    )
    positions = one.window.of(model.prompt_encoder.get_dense_pe())
    with torch.autocast("cpu", torch.bfloat16):
        logits, quality = model.mask_decoder.predict_masks(embedding[None], positions, sparse, one.window.of(dense))
    return logits.float(), quality.float()


def mask_loss(logits: Float[Tensor, "k 4 m m"], masks: Float[Tensor, "k m m"]) -> Float[Tensor, "k 4"]:
    """Cross-entropy, plus Dice: far away from the object it weighs a fifth of what it does inside, at the rim twice."""
    wanted = masks[:, None].expand_as(logits)
    near = F.max_pool2d(masks[:, None], 5, stride=1, padding=2)
    deep = -F.max_pool2d(-masks[:, None], 5, stride=1, padding=2)
    weight = 0.2 + 0.8 * near + (near - deep)
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * weight
    entropy = entropy.sum((2, 3)) / weight.sum((2, 3))
    share = logits.sigmoid()
    both = (share * wanted).sum((2, 3))
    dice = 1 - (2 * both + 1) / (share.sum((2, 3)) + wanted.sum((2, 3)) + 1)
    return entropy + dice


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
