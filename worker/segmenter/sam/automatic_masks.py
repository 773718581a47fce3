"""SAM's automatic masks: a grid of points, a mask for each, and of these the good, the stable and no duplicates.

The same masks as `segment_anything`'s SamAutomaticMaskGenerator without crops, for less: see sam_encoder, sam_decoder,
and sam_masks. What comes out is packed: a bit a pixel from the device to the process that finishes the picture.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image as Pictures
from segment_anything.modeling import ImageEncoderViT, Sam
from torch import Tensor
from torch.nn import functional
from torchvision.ops import nms

from car.recipe import Recipe
from worker.segmenter.resizing import Image
from worker.segmenter.sam.decoder import Decoder, Embedded
from worker.segmenter.sam.encoder import encode
from worker.segmenter.sam.ensembling import Region, Regions
from worker.segmenter.sam.masks import Candidates, Canvas

Over = Callable[[str], AbstractContextManager[None]]
"""Called with the name of a stage (encode, decode, postprocess, nms) for what surrounds it."""

_POINT_BYTES = 64
"""What a point needs while it is decoded in half precision, a number of its keys, generously."""

_FEATURES = 2
"""Features that masks are made of, a number of the keys."""

_KEPT_BY_ALLOCATOR = 32 << 20
"""glibc's malloc maps and unmaps what is larger, whatever it learns while it runs (M_MMAP_THRESHOLD)."""

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass
class AutomaticMasks:
    """A SAM that finds regions without a prompt. Of the last pictures it remembers what it saw, so that another recipe
    costs no second look.
    """

    network: Sam
    """In `precision` where numbers belong to patches; see `suited_to`."""
    points_at_once: int = 4
    """So many share a forward pass of the mask decoder, always of one picture: a result depends on no company."""
    images_at_once: int = 1
    """So many share one of the image encoder, which is always filled up. At an official size one picture, of 4,096
    patches, fills a device.
    """
    kept: int = 8
    """Embeddings (4 MiB each where SAM is of an official size) and regions of so many pictures are remembered."""
    over: Over = lambda _: nullcontext()
    _embeddings: dict[bytes, Float[Tensor, "c g g"]] = field(default_factory=dict, repr=False)
    _regions: dict[tuple[bytes, int, float, float, float], Regions] = field(default_factory=dict, repr=False)

    @classmethod
    def suited_to(cls, network: Sam, *, precision: torch.dtype | None = None) -> "AutomaticMasks":
        """float32 on a CPU, as the official generator runs it. On CUDA patches are half precision; points, tokens, and
        all that is compared with a threshold remain float32.
        """
        cuda = network.device.type == "cuda"
        decoder = network.mask_decoder
        for module in (
            network.image_encoder,
            decoder.output_upscaling,
            *(one.norm4 for one in decoder.transformer.layers),
        ):
            module.to(precision or (torch.float16 if cuda else torch.float32))
        return cls(network, _points(network))

    @torch.inference_mode()
    def __call__(self, image: Image, recipe: Recipe) -> Regions:
        """All regions of an RGB picture, in the order of falling quality. The thresholds are the recipe's."""
        thresholds = (recipe.sam_pred_iou, recipe.sam_stability, recipe.sam_box_nms)
        key = _digest(image), recipe.sam_points_per_side, *thresholds
        found = self._regions.get(key)
        if found is None:
            [embedding] = self.embed([image])
            found = self._found(image, embedding, recipe)
            _remember(self._regions, key, found, self.kept)
        return found

    @torch.inference_mode()
    def embed(self, images: Sequence[Image]) -> list[Float[Tensor, "c g g"]]:
        """What the image encoder sees in RGB pictures of any sizes. Each picture is shown to it once."""
        digests = [_digest(image) for image in images]
        known = {digest: self._embeddings[digest] for digest in digests if digest in self._embeddings}
        new = {digest: image for digest, image in zip(digests, images, strict=True) if digest not in known}
        with self.over("encode"):
            for digest, embedding in zip(new, self._encoded(list(new.values())), strict=True):
                known[digest] = embedding
                _remember(self._embeddings, digest, embedding, self.kept)
        return [known[digest] for digest in digests]

    def _encoded(self, images: Sequence[Image]) -> Iterator[Float[Tensor, "c g g"]]:
        encoder, at_once = self.network.image_encoder, self.images_at_once
        for start in range(0, len(images), at_once):
            resized = [resize(image, encoder.img_size) for image in images[start : start + at_once]]
            pixels = [torch.from_numpy(one).to(self.network.device, non_blocking=True) for one in resized]
            batch = torch.stack([self.network.preprocess(one.permute(2, 0, 1)) for one in pixels])
            filled = functional.pad(batch, (0, 0) * 3 + (0, at_once - len(batch)))
            yield from _finite(encoder, filled)[: len(batch)]

    def _found(self, image: Image, embedding: Float[Tensor, "c g g"], recipe: Recipe) -> Regions:
        parts = list(self._candidates(image.shape[:2], embedding, recipe))
        if not parts:
            return ()
        with self.over("nms"):
            bits, quality, boxes = (
                torch.cat([getattr(part, name) for part in parts]) for name in ("bits", "quality", "boxes")
            )
            kept = nms(boxes.float(), quality, recipe.sam_box_nms)
            found = [tensor[kept].cpu().numpy() for tensor in (bits, quality, boxes)]
        with self.over("postprocess"):
            return tuple(
                Region.unpacked(rows, tuple(box.tolist()), float(q)) for rows, q, box in zip(*found, strict=True)
            )

    def _candidates(
        self, size: tuple[int, int], embedding: Float[Tensor, "c g g"], recipe: Recipe
    ) -> Iterator[Candidates]:
        network, device = self.network, embedding.device
        side = network.image_encoder.img_size
        resized = resized_size(size, side)
        with self.over("decode"):
            picture = Embedded.of(network, embedding)
            decoder = Decoder(network, picture)
            points = grid(recipe.sam_points_per_side) * np.array(resized[::-1])
            tokens = decoder.tokens(torch.as_tensor(points, device=device))
        canvas = Canvas.of(size, resized, grid=picture.grid, side=side, threshold=network.mask_threshold, on=device)
        for some in torch.split(tokens, self.points_at_once):
            with self.over("decode"):
                answers = decoder.ask(some)
                # As in the package a bound of 0 is none.
                good = (answers.quality > recipe.sam_pred_iou) | (recipe.sam_pred_iou == 0)
                logits, quality = decoder.masks(answers, good, *canvas.patches)
            for few, one in zip(torch.split(logits, canvas.at_once), torch.split(quality, canvas.at_once), strict=True):
                if len(few):
                    with self.over("postprocess"):
                        screened = canvas.screen(few, one, recipe.sam_stability)
                    yield screened


def _finite(encoder: ImageEncoderViT, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b c g g"]:
    """In the encoder's precision. Where that is half and numbers outgrow it, in float32: no region would come of them,
    and nobody would know why.
    """
    precision = encoder.patch_embed.proj.weight.dtype
    found = encode(encoder, pixels.to(precision))
    if precision is torch.float16 and not bool(found.isfinite().all()):
        found = encode(encoder.float(), pixels).to(precision)
        encoder.to(precision)
    return found


def resize(image: Image, side: int) -> Image:
    """The picture with its longer side at `side`, by Pillow's bilinear filter as the official code does."""
    height, width = resized_size(image.shape[:2], side)
    return np.array(Pictures.fromarray(image).resize((width, height), Pictures.Resampling.BILINEAR))


def resized_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(height, width) with the longer one at `side`."""
    share = side / max(size)
    return max(1, int(size[0] * share + 0.5)), max(1, int(size[1] * share + 0.5))


def grid(per_side: int) -> Float[np.ndarray, "k 2"]:
    """Centres x, y of the cells of a square grid over 0..1, row by row."""
    centres = (np.arange(per_side) + 0.5) / per_side
    return np.stack(np.meshgrid(centres, centres), -1).reshape(-1, 2)


def _points(network: Sam) -> int:
    """On CUDA as many as an eighth of the card's memory holds, whatever else it holds: the number may change the last
    bits of a logit. On a CPU so few that no tensor of theirs is so large that
    the allocator gives it back to the system after use: getting it again would cost as much as computing it.
    """
    rows, columns = network.prompt_encoder.image_embedding_size
    numbers = int(rows * columns * network.prompt_encoder.embed_dim)
    if network.device.type == "cuda":
        total = int(torch.cuda.get_device_properties(network.device).total_memory)
        return min(256, max(8, total // 8 // (_POINT_BYTES * numbers)))
    return min(64, max(1, _KEPT_BY_ALLOCATOR // (_FEATURES * 4 * numbers)))


def _digest(image: Image) -> bytes:
    shape = np.array(image.shape, np.int64).tobytes()
    return hashlib.blake2b(np.ascontiguousarray(image).data, person=shape[:16], digest_size=16).digest()


def _remember(memory: dict[_Key, _Value], key: _Key, value: _Value, most: int) -> None:
    memory[key] = value
    while len(memory) > most:
        del memory[next(iter(memory))]
