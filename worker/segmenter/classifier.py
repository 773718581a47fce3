"""The mask classifier g: the similarity P of prompted images to all texts."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from car.recipe import Arithmetic, Recipe
from worker.segmenter.clip.encoder import Encoder
from worker.segmenter.resampling import CropView

Crops = UInt8[Tensor, "_ size size 3"]
"""Any number of RGB crops of one size, on any device."""


def crop(image: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Return CLIP's view of an RGB image: short side to `size` (PIL bicubic), then the centre square.

    The classifier does not see the ends of a long image, as in the official code.
    """
    height, width = image.shape[:2]
    view = CropView.for_image(height, width, size)
    # With one call the version of Pillow would decide which pass comes first for a tall image.
    narrow = Image.fromarray(image).resize((view.resized[0], height), Image.Resampling.BICUBIC)
    narrow = narrow.crop((view.left, 0, view.left + size, height))
    resized = narrow.resize((size, view.resized[1]), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((0, view.top, size, view.top + size)))


@torch.no_grad()
def encode(encoder: Encoder, crops: Crops, recipe: Recipe, *, batch_size: int, padded: bool) -> Float[Tensor, "n d"]:
    """Return embeddings of length 1, float32, of crops of the encoder's own size.

    The official g reads the class token one block early. `padded` fills the last batch with blanks, so that embeddings
    do not depend on the number of crops in it, which matters if they are crops of other images.
    """
    depth = encoder.depth - (recipe.classifier_depth is Arithmetic.OFFICIAL)
    parts = [torch.zeros(0, encoder.width, device=encoder.device)]
    for start in range(0, len(crops), batch_size):
        batch = crops[start : start + batch_size].to(encoder.device)
        blanks = batch_size - len(batch) if padded else 0
        pixels = functional.pad(batch, (0, 0, 0, 0, 0, 0, 0, blanks)) if blanks else batch
        images = encoder.normalise(pixels)
        tokens = encoder.embed(images, round_positions=recipe.position_rounding is Arithmetic.OFFICIAL)
        tokens, _ = encoder.blocks(tokens, 0, depth - 1, attention_from=depth)
        z = encoder.project(encoder.class_token(tokens, depth - 1)).float()
        parts.append(functional.normalize(z, dim=-1)[: len(batch)])  # last, so blanks change no shape before
    return torch.cat(parts)


def similarity(
    crops: Float[Tensor, "m d"], texts: Float[Tensor, "k n d"], scale: float, recipe: Recipe, *, templated: bool
) -> Float[Tensor, "m n"]:
    """Return P: row i has the similarities of crop i to the n texts; rows sum to 1.

    With k templates the official code computes a softmax for each, and a softmax of their sum; `paper` computes one
    softmax over the mean text of the templates. Without templates it is one softmax.
    """
    if not templated:
        return (scale * crops @ texts[0].T).softmax(-1)
    if recipe.classifier_softmax is Arithmetic.PAPER:
        return (scale * crops @ functional.normalize(texts.mean(0), dim=-1).T).softmax(-1)
    single = (scale * crops @ texts.transpose(1, 2)).softmax(-1)
    return single.sum(0).softmax(-1)
