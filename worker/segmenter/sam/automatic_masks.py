"""SAM's automatic masks: masks of a grid of points, filtered by quality and stability, without duplicates.

They equal those of `segment_anything`'s SamAutomaticMaskGenerator without crops, for less work: see `encoder`,
`decoder` and `masks`. Masks stay packed, a bit per pixel, from the device to postprocessing.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image as PilImage
from segment_anything.modeling import ImageEncoderViT, Sam
from torch import Tensor
from torchvision.ops import nms

from car.recipe import Recipe
from worker.segmenter.resizing import Image
from worker.segmenter.sam.decoder import Decoder, ImageEmbedding
from worker.segmenter.sam.encoder import encode
from worker.segmenter.sam.ensembling import Region, Regions
from worker.segmenter.sam.masks import Candidates, MaskUpscaler

StageTimer = Callable[[str], AbstractContextManager[None]]
"""Returns a context manager around a stage (encode, decode, postprocess, nms)."""

_POINT_BYTES = 64
"""Upper estimate of the memory of a point in half precision while it is decoded, per number of its keys."""

_FEATURES = 2
"""Features of the upscaled masks per number of the keys."""

_MAX_POOLED_BYTES = 32 << 20
"""glibc's malloc always maps and unmaps larger blocks (M_MMAP_THRESHOLD)."""

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass
class AutomaticMasks:
    """A SAM that finds regions without a prompt. It caches the embeddings and regions of the last images."""

    network: Sam
    """See `for_network` for its precision."""
    point_batch_size: int = 4
    """Points of one image that share a forward pass of the mask decoder."""
    cache_size: int = 8
    """Images whose embeddings (4 MiB each at an official size) and regions are cached."""
    stage_timer: StageTimer = lambda _: nullcontext()
    _embeddings: dict[bytes, Float[Tensor, "c g g"]] = field(default_factory=dict, repr=False)
    _regions: dict[tuple[bytes, int, float, float, float], Regions] = field(default_factory=dict, repr=False)

    @classmethod
    def for_network(cls, network: Sam, *, precision: torch.dtype | None = None) -> "AutomaticMasks":
        """Convert the network to the precision that suits its device.

        float32 on a CPU, like the official generator. On CUDA patches are float16, or `precision` if given; points,
        tokens and all that is compared with a threshold remain float32.
        """
        cuda = network.device.type == "cuda"
        decoder = network.mask_decoder
        norms = (layer.norm4 for layer in decoder.transformer.layers)
        for module in (network.image_encoder, decoder.output_upscaling, *norms):
            module.to(precision or (torch.float16 if cuda else torch.float32))
        return cls(network, _point_batch_size(network))

    @torch.inference_mode()
    def __call__(self, image: Image, recipe: Recipe) -> Regions:
        """Return all regions of an RGB image by falling quality, with the recipe's thresholds."""
        thresholds = (recipe.sam_pred_iou, recipe.sam_stability, recipe.sam_box_nms)
        key = _digest(image), recipe.sam_points_per_side, *thresholds
        regions = self._regions.get(key)
        if regions is None:
            regions = self._find_regions(image, self.embed(image), recipe)
            _add_to_cache(self._regions, key, regions, self.cache_size)
        return regions

    @torch.inference_mode()
    def embed(self, image: Image) -> Float[Tensor, "c g g"]:
        """Return the embedding of an RGB image of any size."""
        digest = _digest(image)
        embedding = self._embeddings.get(digest)
        if embedding is None:
            encoder = self.network.image_encoder
            with self.stage_timer("encode"):
                pixels = torch.from_numpy(resize(image, encoder.img_size)).to(self.network.device, non_blocking=True)
                [embedding] = _encode_finite(encoder, self.network.preprocess(pixels.permute(2, 0, 1))[None])
            _add_to_cache(self._embeddings, digest, embedding, self.cache_size)
        return embedding

    def _find_regions(self, image: Image, embedding: Float[Tensor, "c g g"], recipe: Recipe) -> Regions:
        parts = list(self._candidates(image.shape[:2], embedding, recipe))
        if not parts:
            return ()
        with self.stage_timer("nms"):
            bits, quality, boxes = (
                torch.cat([getattr(part, name) for part in parts]) for name in ("bits", "quality", "boxes")
            )
            best = nms(boxes.float(), quality, recipe.sam_box_nms)
            arrays = [tensor[best].cpu().numpy() for tensor in (bits, quality, boxes)]
        with self.stage_timer("postprocess"):
            return tuple(
                Region.from_packed_rows(rows, tuple(box.tolist()), float(q))
                for rows, q, box in zip(*arrays, strict=True)
            )

    def _candidates(
        self, size: tuple[int, int], embedding: Float[Tensor, "c g g"], recipe: Recipe
    ) -> Iterator[Candidates]:
        network, device = self.network, embedding.device
        resized = resized_size(size, network.image_encoder.img_size)
        with self.stage_timer("decode"):
            decoder = Decoder(network, ImageEmbedding.from_encoder(network, embedding))
            points = grid(recipe.sam_points_per_side) * np.array(resized[::-1])
            tokens = decoder.tokens(torch.as_tensor(points, device=device))
        upscaler = MaskUpscaler.for_size(size, resized, network)
        for batch in torch.split(tokens, self.point_batch_size):
            with self.stage_timer("decode"):
                decoded = decoder.decode(batch)
                # As in the package a bound of 0 means no bound.
                good = (decoded.quality > recipe.sam_pred_iou) | (recipe.sam_pred_iou == 0)
                logits, quality = decoder.masks(decoded, good, *upscaler.patches)
            parts = (torch.split(tensor, upscaler.batch_size) for tensor in (logits, quality))
            for part_logits, part_quality in zip(*parts, strict=True):
                if len(part_logits):
                    with self.stage_timer("postprocess"):
                        candidates = upscaler.select_stable(part_logits, part_quality, recipe.sam_stability)
                    yield candidates


def _encode_finite(encoder: ImageEncoderViT, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b c g g"]:
    """Encode in the encoder's precision, or in float32 if numbers overflow float16: they would give no regions."""
    precision = encoder.patch_embed.proj.weight.dtype
    embeddings = encode(encoder, pixels.to(precision))
    if precision is torch.float16 and not bool(embeddings.isfinite().all()):
        embeddings = encode(encoder.float(), pixels).to(precision)
        encoder.to(precision)
    return embeddings


def resize(image: Image, side: int) -> Image:
    """Return the image with its longer side at `side`, resized bilinearly by Pillow like the official code."""
    height, width = resized_size(image.shape[:2], side)
    return np.array(PilImage.fromarray(image).resize((width, height), PilImage.Resampling.BILINEAR))


def resized_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return (height, width) with the longer one at `side`."""
    scale = side / max(size)
    return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))


def grid(per_side: int) -> Float[np.ndarray, "k 2"]:
    """Return the centres x, y of the cells of a square grid over 0..1, row by row."""
    centres = (np.arange(per_side) + 0.5) / per_side
    return np.stack(np.meshgrid(centres, centres), -1).reshape(-1, 2)


def _point_batch_size(network: Sam) -> int:
    """Return the batch size that suits the network's device.

    On CUDA as many points as fit into an eighth of all the card's memory, free or not, because the number may change
    the last bits of a logit. On a CPU so few that the allocator reuses their memory: requesting it from the system
    again costs as much as the computation.
    """
    rows, columns = network.prompt_encoder.image_embedding_size
    numbers = int(rows * columns * network.prompt_encoder.embed_dim)
    if network.device.type == "cuda":
        total = int(torch.cuda.get_device_properties(network.device).total_memory)
        return min(256, max(8, total // 8 // (_POINT_BYTES * numbers)))
    return min(64, max(1, _MAX_POOLED_BYTES // (_FEATURES * 4 * numbers)))


def _digest(image: Image) -> bytes:
    shape = np.array(image.shape, np.int64).tobytes()
    return hashlib.blake2b(np.ascontiguousarray(image).data, person=shape[:16], digest_size=16).digest()


def _add_to_cache(cache: dict[_Key, _Value], key: _Key, value: _Value, size: int) -> None:
    cache[key] = value
    while len(cache) > size:
        del cache[next(iter(cache))]
