"""The mask classifier g: prompted pictures against all texts, as the similarity matrix P."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from car.recipe import Arithmetic, Recipe
from worker.segmenter.clip.encoder import Encoder
from worker.segmenter.resampling import View

Crops = UInt8[Tensor, "_ size size 3"]
"""Any number of RGB crops of one size, wherever they were made. Those of several pictures are joined by torch.cat."""


def crop(image: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """CLIP's own view of an RGB picture: short side to `size` (PIL bicubic), then the centre square.

    The ends of a long picture are lost to the classifier, as in the official code.
    """
    height, width = image.shape[:2]
    view = View.of(height, width, size)
    # One call would let the version of Pillow decide which pass comes first where a picture is tall.
    narrow = Image.fromarray(image).resize((view.to[0], height), Image.Resampling.BICUBIC)
    narrow = narrow.crop((view.left, 0, view.left + size, height))
    resized = narrow.resize((size, view.to[1]), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((0, view.top, size, view.top + size)))


@torch.no_grad()
def encode(encoder: Encoder, crops: Crops, recipe: Recipe, *, at_once: int, padded: bool) -> Float[Tensor, "n d"]:
    """Embeddings of length 1, float32, of crops of the encoder's own size.

    The official g reads the class token one block early. `padded` fills the last batch up to `at_once` with blanks, so
    that an embedding does not depend on the number of its companions: needed where they are other pictures' crops.
    """
    depth = encoder.depth - (recipe.classifier_depth is Arithmetic.OFFICIAL)
    parts = [torch.zeros(0, encoder.width, device=encoder.device)]
    for start in range(0, len(crops), at_once):
        chunk = crops[start : start + at_once].to(encoder.device)
        blanks = at_once - len(chunk) if padded else 0
        pixels = functional.pad(chunk, (0, 0, 0, 0, 0, 0, 0, blanks)) if blanks else chunk
        images = encoder.normalise(pixels)
        tokens = encoder.embed(images, round_positions=recipe.position_rounding is Arithmetic.OFFICIAL)
        tokens, _ = encoder.blocks(tokens, 0, depth - 1, attention_from=depth)
        z = encoder.project(encoder.class_token(tokens, depth - 1)).float()
        parts.append(functional.normalize(z, dim=-1)[: len(chunk)])  # blanks go last: shapes stay the same to the end
    return torch.cat(parts)


def similarity(
    crops: Float[Tensor, "m d"], texts: Float[Tensor, "k n d"], scale: float, recipe: Recipe, *, templated: bool
) -> Float[Tensor, "m n"]:
    """P: row i is how much crop i looks like each of the n texts; rows sum to 1.

    With templates the official code takes a softmax for each of the k, adds them up, and takes a softmax of the sums;
    `paper` takes one softmax over the mean text of the templates. Without templates it is one softmax.
    """
    if not templated:
        return (scale * crops @ texts[0].T).softmax(-1)
    if recipe.classifier_softmax is Arithmetic.PAPER:
        return (scale * crops @ functional.normalize(texts.mean(0), dim=-1).T).softmax(-1)
    single = (scale * crops @ texts.transpose(1, 2)).softmax(-1)
    return single.sum(0).softmax(-1)
