"""SAM's automatic masks: a grid of points, a mask for each, and of these the good, the stable and no duplicates.

The same masks as `segment_anything`'s SamAutomaticMaskGenerator without crops, for less: the image side of the first
attention to points is computed once a picture, masks that the quality head rejects are never decoded, and only masks
that stay are brought to the picture's size.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image as Pictures
from segment_anything.modeling import Sam
from torch import Tensor
from torchvision.ops import batched_nms

from car.recipe import Recipe
from worker.segmenter import sam_decoder
from worker.segmenter.ensembling import Region, Regions
from worker.segmenter.sizes import Image

STABILITY_OFFSET = 1.0
"""Logits by which the threshold is moved to see whether a mask is stable (the generator's default)."""

_LOGITS_AT_ONCE = 1 << 24
"""Of masks at the picture's size: 64 MiB of float32."""


@dataclass(frozen=True)
class Candidates:
    """Masks before duplicates are removed."""

    masks: Bool[Tensor, "m h w"]
    quality: Float[Tensor, " m"]
    """Predicted IoU."""
    boxes: Int[Tensor, "m 4"]
    """x, y of the first and of the last pixel."""


@dataclass
class AutomaticMasks:
    """A SAM that finds regions without a prompt: float32, as the official generator runs it."""

    network: Sam
    points_at_once: int = 64
    """So many share a forward pass of the mask decoder, always of one picture: a result depends on no company."""

    @classmethod
    def suited_to(cls, network: Sam) -> "AutomaticMasks":
        return cls(network, 128 if network.device.type == "cuda" else 16)

    @torch.inference_mode()
    def __call__(self, image: Image, recipe: Recipe) -> Regions:
        """All regions of an RGB picture, in the order of falling quality. The thresholds are the recipe's."""
        resized = resize(image, self.network.image_encoder.img_size)
        embedding = self._embed(resized)
        points = grid(recipe.sam_points_per_side) * np.array(resized.shape[1::-1])
        parts = list(self._candidates(embedding, points, resized.shape[:2], image.shape[:2], recipe))
        if not parts:
            return ()
        boxes, quality = (torch.cat([getattr(part, name) for part in parts]) for name in ("boxes", "quality"))
        kept = batched_nms(boxes.float(), quality, torch.zeros_like(quality), recipe.sam_box_nms).cpu()
        masks = torch.cat([part.masks for part in parts])[kept.to(quality.device)].cpu().numpy()
        return tuple(Region.of(mask, float(q)) for mask, q in zip(masks, quality.cpu()[kept], strict=True))

    def _embed(self, resized: Image) -> Float[Tensor, "1 c g g"]:
        pixels = torch.as_tensor(resized, device=self.network.device).permute(2, 0, 1)[None]
        embedding: Float[Tensor, "1 c g g"] = self.network.image_encoder(self.network.preprocess(pixels))
        return embedding

    def _candidates(
        self,
        embedding: Float[Tensor, "1 c g g"],
        points: Float[np.ndarray, "k 2"],
        resized: tuple[int, int],
        size: tuple[int, int],
        recipe: Recipe,
    ) -> Iterator[Candidates]:
        picture = sam_decoder.Embedded.of(self.network, embedding)
        where = torch.as_tensor(points, device=self.network.device)
        for some in torch.split(where, self.points_at_once):
            logits, quality = sam_decoder.decode(self.network, picture, some, above=recipe.sam_pred_iou)
            at_once = max(1, _LOGITS_AT_ONCE // max(size[0] * size[1], self.network.image_encoder.img_size**2))
            for few, good in zip(torch.split(logits, at_once), torch.split(quality, at_once), strict=True):
                if len(few):
                    yield self._stable(self._enlarged(few, resized, size), good, recipe.sam_stability)

    def _enlarged(
        self, logits: Float[Tensor, "m low low"], resized: tuple[int, int], size: tuple[int, int]
    ) -> Float[Tensor, "m h w"]:
        whole: Float[Tensor, "m 1 h w"] = self.network.postprocess_masks(logits[:, None], resized, size)
        return whole[:, 0]

    def _stable(self, logits: Float[Tensor, "m h w"], quality: Float[Tensor, " m"], least: float) -> Candidates:
        threshold = self.network.mask_threshold
        inner = (logits > threshold + STABILITY_OFFSET).sum((1, 2))
        outer = (logits > threshold - STABILITY_OFFSET).sum((1, 2))
        masks = logits > threshold
        keep = (inner / outer >= least) & masks.any(2).any(1)  # 0 / 0 is not stable
        return Candidates(masks[keep], quality[keep], _boxes(masks[keep]))


def resize(image: Image, side: int) -> Image:
    """The picture with its longer side at `side`, by Pillow's bilinear filter as the official code does."""
    height, width = image.shape[:2]
    share = side / max(height, width)
    to = (max(1, int(width * share + 0.5)), max(1, int(height * share + 0.5)))
    return np.array(Pictures.fromarray(image).resize(to, Pictures.Resampling.BILINEAR))


def grid(per_side: int) -> Float[np.ndarray, "k 2"]:
    """Centres x, y of the cells of a square grid over 0..1, row by row."""
    centres = (np.arange(per_side) + 0.5) / per_side
    return np.stack(np.meshgrid(centres, centres), -1).reshape(-1, 2)


def _boxes(masks: Bool[Tensor, "m h w"]) -> Int[Tensor, "m 4"]:
    """x, y of the first and the last pixel; of masks that are not empty."""
    columns, rows = masks.any(1).int(), masks.any(2).int()
    ends = [
        columns.argmax(1),
        rows.argmax(1),
        columns.shape[1] - 1 - columns.flip(1).argmax(1),
        rows.shape[1] - 1 - rows.flip(1).argmax(1),
    ]
    return torch.stack(ends, 1)
