"""The mask proposal generator f: GradCAM on CLIP's last block in closed form, refined by attention affinity (CAA).

Let A be ln_1 of the last block (patch tokens), z(A) the embedding of the mean patch, l_j = s <z, t_j>, p the softmax of
l over the competing texts. With g_j = mean over tokens of d<z, t_j>/dA and M_j = A g_j, the GradCAM of text i is

    cam_i = relu(s p_i (M_i - sum_j p_j M_j))

and neither g nor M depends on which texts compete. So an image costs one vector-Jacobian product per text, plus one for
all background texts together; a step of the recurrence is a small matrix product. The factor s p_i > 0 cancels in the
min-max scaling and is left out, so CAMs of improbable texts do not underflow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from car.recipe import Arithmetic, Cam, Recipe
from worker.segmenter.clip.encoder import Encoder
from worker.segmenter.clip.last_block import LastBlock

MULTIPLE = 16
"""Images are enlarged to multiples of this before f sees them, whatever its patch size (official code)."""
_AFFINITY_MAPS = 8
_SINKHORN_ROUNDS = 3


def padded_size(height: int, width: int) -> tuple[int, int]:
    """Return (height, width) at which f sees an image of this size."""
    return -(-height // MULTIPLE) * MULTIPLE, -(-width // MULTIPLE) * MULTIPLE


@dataclass
class EncodedImage:
    """An image encoded by f, for any texts."""

    a: Float[Tensor, "p c"]
    """ln_1 of the last block, patch tokens, in the precision of `last_block`."""
    z: Float[Tensor, " d"]
    """Embedding of the mean patch, of length 1, in the same precision."""
    affinity: Float[Tensor, "p p"] | None
    """CAA's transition matrix; None for plain GradCAM."""
    grid: tuple[int, int]
    """(rows, columns) of patches."""
    last_block: LastBlock
    products: int = 0
    """Vector-Jacobian products computed so far."""
    _jacobian: Float[Tensor, "d c"] | None = None

    def maps(self, texts: Float[Tensor, "n d"]) -> Float[Tensor, "n p"]:
        """Return M = A g of each text, in the precision of `last_block`.

        For more texts than the embedding has dimensions the whole Jacobian is cheaper. It is cached, so any further
        text costs one matrix product.
        """
        if self._jacobian is None and texts.shape[0] > texts.shape[1]:
            self._jacobian = self._gradients(torch.eye(texts.shape[1]).to(self.a))
        g = self._gradients(texts) if self._jacobian is None else texts.to(self.a) @ self._jacobian
        return g @ self.a.T

    def exact(self, embeddings: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """Return the embeddings of texts in the precision of `last_block`."""
        return embeddings.to(self.a)

    def _gradients(self, cotangents: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Return the mean over patches of d<z, t>/dA for each row t."""
        self.products += len(cotangents)
        return self.last_block.gradients(cotangents)


@torch.no_grad()
def encode(
    encoder: Encoder, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], recipe: Recipe, *, batch_size: int
) -> list[EncodedImage]:
    """Encode at most `batch_size` RGB images of one padded size in one forward pass.

    The batch is padded with blanks to `batch_size`, so an encoding does not depend on the other images. The official
    code resizes with PIL's bicubic filter; an image that already has the padded size passes unchanged.
    """
    height, width = padded_size(*images[0].shape[:2])
    if any(padded_size(*image.shape[:2]) != (height, width) for image in images):
        raise ValueError(f"images of sizes {[image.shape[:2] for image in images]} do not share a padded size")
    pixels = torch.zeros(batch_size, height, width, 3, dtype=torch.uint8)
    for row, image in enumerate(images):
        pixels[row] = torch.from_numpy(resize(image, height, width))
    with_affinity = recipe.cam is Cam.CAA
    first_map = max(0, encoder.depth - _AFFINITY_MAPS) if with_affinity else encoder.depth
    tokens = encoder.embed(encoder.normalise(pixels), round_positions=recipe.position_rounding is Arithmetic.OFFICIAL)
    tokens, attention = encoder.blocks(tokens, 0, encoder.depth - 1, attention_from=first_map)
    grid = (height // encoder.patch, width // encoder.patch)
    # The last block is kept image by image, because its products are batched over texts, not images.
    return [
        encode_tokens(encoder, row[None], maps[None] if with_affinity else None, grid)
        for row, maps in zip(tokens[: len(images)], attention[: len(images)], strict=True)
    ]


@torch.no_grad()
def encode_tokens(
    encoder: Encoder, tokens: Float[Tensor, "1 t c"], attention: Float[Tensor, "1 t t"] | None, grid: tuple[int, int]
) -> EncodedImage:
    """Encode an image from the last block's input tokens and the sum of earlier attention maps (None: no CAA)."""
    last = encoder.last_block(tokens[0])
    affinity = None
    if attention is not None:
        maps = (attention[0] + last.attention.float())[1:, 1:]
        affinity = transition(maps / min(_AFFINITY_MAPS, encoder.depth))
    return EncodedImage(last.a[1:], last.z, affinity, grid, last)


def resize(image: UInt8[np.ndarray, "_ _ 3"], height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Return an RGB image at the size at which f sees it."""
    if image.shape[:2] == (height, width):
        return np.array(image)
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def transition(w: Float[Tensor, "p p"]) -> Float[Tensor, "p p"]:
    """Return CAA's matrix: the affinity after Sinkhorn scaling (columns, then rows), made symmetric and squared."""
    for _ in range(_SINKHORN_ROUNDS):
        w = w / w.sum(0, keepdim=True)
        w = w / w.sum(1, keepdim=True)
    w = (w + w.T) / 2
    return w @ w


def gradcams(
    m: Float[Tensor, "n p"], logits: Float[Tensor, " n"], m_bg: Float[Tensor, " p"], logit_bg: Float[Tensor, ""]
) -> Float[Tensor, "n p"]:
    """Return the GradCAMs of n texts that compete with each other and with the background, in 0..1.

    `m_bg` is the sum of the background texts' M weighted by exp(l_j - logit_bg), where `logit_bg` is the log-sum-exp of
    their logits (-inf without a background). A CAM that is zero everywhere is computed again without the background
    (CLIP-ES).
    """
    total = torch.logsumexp(torch.cat([logits, logit_bg[None]]), 0)
    mean = (logits - total).exp() @ m + (logit_bg - total).exp() * m_bg
    cams = (m - mean).relu()
    empty = cams.amax(1) == 0
    if bool(empty.any()):
        retried = (m[empty] - logits.softmax(0) @ m).relu()
        # With one text p is 1 and the gradient 0, apart from rounding.
        cams[empty] = retried if len(m) > 1 else torch.zeros_like(retried)
    return min_max(cams)


def min_max(maps: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
    """Scale each row to 0..1 like the official code, which turns a constant row into zeros."""
    shifted = maps - maps.amin(1, keepdim=True)
    return shifted / (1e-15 + shifted.amax(1, keepdim=True))


def refine(
    cams: Float[Tensor, "n p"], affinity: Float[Tensor, "p p"], grid: tuple[int, int], recipe: Recipe
) -> Float[Tensor, "n p"]:
    """CAA: spread each CAM along the affinity from the patches inside its boxes, in 0..1."""
    inclusive = recipe.box_ends is Arithmetic.PAPER
    grids = cams.cpu().numpy().reshape(-1, *grid)
    boxes = np.stack([boxes_mask(cam, recipe.lambda_, inclusive=inclusive) for cam in grids])
    inside = torch.from_numpy(boxes.reshape(len(cams), -1)).to(cams)
    return min_max((inside * cams) @ affinity.T)


def boxes_mask(
    cam: Float[np.ndarray, "rows columns"], lambda_: float, *, inclusive: bool
) -> Bool[np.ndarray, "rows columns"]:
    """Return the union of the bounding boxes of the regions above lambda times the CAM's maximum.

    lambda falls by 0.1 until there is a region. The official code ends boxes before the grid's last row and column;
    `inclusive` ends them where the region ends.
    """
    rows, columns = cam.shape
    levels = (cam * 255).astype(np.uint8)
    threshold = lambda_
    while True:
        above = (levels > int(threshold * levels.max())).astype(np.uint8)
        if above.any() or threshold <= 0:
            break
        threshold -= 0.1
    mask = np.zeros(cam.shape, bool)
    contours, _ = cv2.findContours(above, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    for contour in contours:
        x, y, w, h = cv2.boundingRect(contour)
        right, bottom = (x + w, y + h) if inclusive else (min(x + w, columns - 1), min(y + h, rows - 1))
        mask[y:bottom, x:right] = True
    return mask
