"""Training of the proposal generator: the GradCAM is the output that is trained.

CaR reads a CAM from the output A of the last block's first LayerNorm, cam_i = relu(A . mean over patches of
d log p_i / dA), then smooths it with the attention maps (CAA). Supervising patches alone does not move that gradient,
so the loss is put on the CAM and on the smoothed CAM, with a second backward pass through the last block.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int16
from torch import Tensor, nn
from transformers import CLIPModel

from car.text_data import CAM_TEMPLATE
from demo.clip_models import MEAN, PROPOSAL, STD, attend, block, create_folder, embed
from demo.drawing import chance
from demo.scenes import WORDS, Scene, SceneStyle, draw_scene
from demo.texts import QUERIES, RAW, Texts, text_features
from worker.segmenter.proposals import boxes_mask

GRIDS: Final[tuple[tuple[int, int], ...]] = ((10, 10), (8, 8), (9, 12), (12, 9), (14, 14), (10, 16), (15, 20))
"""Patch grids (rows, columns) of training; the first is drawn as often as all others together."""

PATCHES_A_STEP: Final = 2400
"""Patches of one batch, whatever the grid."""

AFFINITY_MAPS: Final = 8
_EPS: Final = 1e-6


@dataclass(frozen=True)
class ProposalBatch:
    pixels: Float32[Tensor, "b 3 h w"]
    coverage: Float32[Tensor, "b words gh gw"]
    """Share of each patch that shows the word."""
    background: Int[Tensor, " b"]
    """Index of the background's text."""
    present: Bool[Tensor, "b words"]


def proposal_batch(rng: np.random.Generator) -> ProposalBatch:
    """Draw new scenes of one grid."""
    grid = GRIDS[0] if chance(rng, 0.5) else GRIDS[rng.integers(1, len(GRIDS))]
    count = max(4, PATCHES_A_STEP // (grid[0] * grid[1]))
    size = (grid[1] * PROPOSAL.patch, grid[0] * PROPOSAL.patch)
    style = SceneStyle(objects=(1, 5), overlap=0.6, alike=0.5)
    scenes = [draw_scene(rng, size=size, style=style) for _ in range(count)]
    return collate(scenes)


def collate(scenes: list[Scene]) -> ProposalBatch:
    """Make a batch of scenes of one size, both sides multiples of the patch."""
    coverage = torch.from_numpy(np.stack([word_coverage(scene.labels, PROPOSAL.patch) for scene in scenes]))
    return ProposalBatch(
        pixels=normalised(np.stack([scene.image for scene in scenes])),
        coverage=coverage,
        background=torch.tensor([QUERIES.index(scene.background) for scene in scenes]),
        present=coverage.flatten(2).any(2),
    )


def word_coverage(labels: Int16[np.ndarray, "h w"], patch: int) -> Float32[np.ndarray, "words gh gw"]:
    """Return the share of each patch that shows each word."""
    height, width = labels.shape
    bins = len(WORDS) + 1
    gh, gw = height // patch, width // patch
    patches = np.add.outer(np.arange(height) // patch * gw, np.arange(width) // patch)
    counts = np.bincount((patches * bins + labels).ravel(), minlength=gh * gw * bins).reshape(gh, gw, bins)
    return np.ascontiguousarray(counts[..., 1:].transpose(2, 0, 1), np.float32) / patch**2


def normalised(images: np.ndarray) -> Float32[Tensor, "b 3 h w"]:
    """Convert RGB bytes (b, h, w, 3) to CLIP's normalised floats."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


class PatchReadout(nn.Module):
    """Auxiliary head of training that names each patch from A: with it the trunk learns faster than from CAMs alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, len(WORDS) + 1)

    def loss(self, activations: Float[Tensor, "b patches c"], coverage: Float[Tensor, "b words gh gw"]) -> Tensor:
        words = coverage.flatten(2).transpose(1, 2)
        target = torch.cat([1 - words.sum(2, keepdim=True), words], 2).clamp(min=0)
        # Most patches show no object; unweighted, they would dominate the loss.
        weight = 0.2 + words.sum(2)
        surprise = -(target * self.linear(activations).log_softmax(2)).sum(2)
        loss: Tensor = (weight * surprise).sum() / weight.sum()
        return loss


def proposal_loss(
    model: CLIPModel, readout: PatchReadout, texts: Texts, batch: ProposalBatch, rng: np.random.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of one batch and its parts."""
    heads, layers = PROPOSAL.heads, model.vision_model.encoder.layers
    maps = []
    with torch.autocast("cpu", torch.bfloat16):
        tokens = embed(model, batch.pixels)
        for layer in layers[:-1]:
            tokens, weights = block(layer, tokens, heads)
            maps.append(weights)
    tokens = tokens.float()
    features = _both_texts(model, texts)
    image, word = _rows(batch.present, rng)
    allowed = _competitors(batch.present[image], word, rng)
    cam, log_p, last_map, first = _cams(model, tokens[image], features, word, allowed)
    affinity = torch.stack([*(m[image] for m in maps[-(AFFINITY_MAPS - 1) :]), last_map]).mean(0)
    target = batch.coverage[image, word].flatten(1)
    target = target / target.amax(1, keepdim=True).clamp(min=0.02)
    refined = smoothed(cam, affinity[:, 1:, 1:], tuple(batch.coverage.shape[2:]), rng)
    parts = {
        "cam": mask_loss(cam, target),
        "caa": mask_loss(refined, target),
        "patch": readout.loss(first[:, 1:], batch.coverage[image]),
        "text": _image_text_loss(log_p, batch, image),
    }
    total = parts["cam"] + 1.5 * parts["caa"] + parts["patch"] + 0.3 * parts["text"]
    return total, {name: float(part.detach()) for name, part in parts.items()}


def _both_texts(model: CLIPModel, texts: Texts) -> Float[Tensor, "2 n d"]:
    """Return the texts of the first step (raw words) and of later ones; the background always has the template."""
    words = len(WORDS)
    tokens = torch.cat([texts.tokens[RAW][:words], texts.tokens[CAM_TEMPLATE]])
    features = text_features(model, tokens)
    raw, templated, background = features[:words], features[words : 2 * words], features[2 * words :]
    return torch.stack([torch.cat([raw, background]), torch.cat([templated, background])])


def _rows(present: Bool[Tensor, "b words"], rng: np.random.Generator) -> tuple[Int[Tensor, " r"], Int[Tensor, " r"]]:
    """Return (image, word) of each row: up to two present words of every image."""
    pairs = []
    for image, row in enumerate(present.numpy()):
        words = np.flatnonzero(row)
        pairs += [(image, word) for word in rng.permutation(words)[:2]]
    image, word = np.array(pairs).T
    return torch.from_numpy(image), torch.from_numpy(word)


def _competitors(
    present: Bool[Tensor, "r words"], word: Int[Tensor, " r"], rng: np.random.Generator
) -> Bool[Tensor, "r words"]:
    """Return the words that share the softmax: all, the present ones and a few others, or only the row's word."""
    rows, words = present.shape
    kind = rng.choice(["all", "some", "present", "alone"], (rows, 1), p=[0.5, 0.25, 0.17, 0.08])
    others = rng.random((rows, words)) < rng.uniform(0, 0.4, (rows, 1))
    allowed = (kind == "all") | ((kind != "alone") & present.numpy()) | ((kind == "some") & others)
    allowed[np.arange(rows), word.numpy()] = True
    return torch.from_numpy(allowed)


def _cams(
    model: CLIPModel,
    tokens: Float[Tensor, "r tokens c"],
    features: Float[Tensor, "2 n d"],
    word: Int[Tensor, " r"],
    allowed: Bool[Tensor, "r words"],
) -> tuple[Float[Tensor, "r patches"], Float[Tensor, "r n"], Float[Tensor, "r t t"], Float[Tensor, "r t c"]]:
    """Return the CAM of each row (0..1), log p over all its texts, the last attention map, and A."""
    layer = model.vision_model.encoder.layers[-1]
    activations = layer.layer_norm1(tokens)
    mixed, weights = attend(layer, activations, PROPOSAL.heads)
    after = tokens + mixed
    after = after + layer.mlp(layer.layer_norm2(after))
    pooled = model.vision_model.post_layernorm(after)[:, 1:].mean(1)
    embedding = nn.functional.normalize(model.visual_projection(pooled), dim=-1)
    which = torch.arange(len(word)) % 2
    logits = model.logit_scale.exp() * (embedding[:, None] @ features[which].transpose(1, 2))[:, 0]
    limited = logits.masked_fill(~nn.functional.pad(allowed, (0, logits.shape[1] - allowed.shape[1]), value=True), -1e4)
    score = limited.log_softmax(1).gather(1, word[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, activations, create_graph=True)
    weight = gradient[:, 1:].mean(1)
    weight = weight / weight.norm(dim=1, keepdim=True).clamp(min=1e-12)
    cam = (activations[:, 1:] @ weight[..., None])[..., 0].relu()
    return stretched(cam), logits.log_softmax(1), weights, activations


def stretched(cam: Float[Tensor, "r patches"]) -> Float[Tensor, "r patches"]:
    """Scale the least value to 0 and the largest to 1."""
    cam = cam - cam.amin(1, keepdim=True)
    return cam / (cam.amax(1, keepdim=True) + _EPS)


def smoothed(
    cam: Float[Tensor, "r patches"],
    affinity: Float[Tensor, "r patches patches"],
    grid: tuple[int, ...],
    rng: np.random.Generator,
) -> Float[Tensor, "r patches"]:
    """Refine by class-aware affinity (CAA) as CaR does, with a random lambda."""
    for _ in range(3):
        affinity = affinity / affinity.sum(1, keepdim=True)
        affinity = affinity / affinity.sum(2, keepdim=True)
    affinity = (affinity + affinity.transpose(1, 2)) / 2
    affinity = affinity @ affinity
    sheets = cam.detach().numpy().reshape(-1, *grid)
    boxes = [boxes_mask(sheet, rng.uniform(0.3, 0.6), inclusive=False) for sheet in sheets]
    inside = torch.from_numpy(np.stack(boxes)).flatten(1)
    return stretched((affinity @ (cam * inside)[..., None])[..., 0])


def mask_loss(soft: Float[Tensor, "r patches"], target: Float[Tensor, "r patches"]) -> Tensor:
    """Return Dice plus cross-entropy of maps in 0..1."""
    soft = soft.clamp(_EPS, 1 - _EPS)
    overlap = 2 * (soft * target).sum(1) / (soft.square().sum(1) + target.square().sum(1) + _EPS)
    return (1 - overlap).mean() + nn.functional.binary_cross_entropy(soft, target)


def _image_text_loss(log_p: Float[Tensor, "r n"], batch: ProposalBatch, image: Int[Tensor, " r"]) -> Tensor:
    """Return the multi-label contrastive loss: 0.8 for the present words together, 0.2 for the background's word."""
    words = batch.present[image].float()
    target = nn.functional.pad(0.8 * words / words.sum(1, keepdim=True), (0, log_p.shape[1] - words.shape[1]))
    target[torch.arange(len(image)), batch.background[image]] += 0.2
    return -(target * log_p).sum(1).mean()


class ProposalStage:
    """The proposal generator, its auxiliary head and its loss."""

    def __init__(self, folder: Path) -> None:
        self.model, tokenizer = create_folder(folder, PROPOSAL)
        self.readout = PatchReadout(PROPOSAL.width)
        self.texts = Texts.tokenize(tokenizer)

    def modules(self) -> nn.ModuleList:
        return nn.ModuleList([self.model, self.readout])

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        return proposal_loss(self.model, self.readout, self.texts, proposal_batch(rng), rng)
