"""GradCAM by definition: one forward and one backward pass through the last block per text.

worker.segmenter.proposals computes the same in closed form; this is the reference for its results and its speed.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from worker.segmenter.clip.encoder import Encoder
from worker.segmenter.proposals import min_max


@dataclass(frozen=True)
class QueryCam:
    """The GradCAM of one text among others, before min-max scaling."""

    cam: Float[Tensor, " p"]
    """relu(A w), float32 or the encoder's own precision where that is higher."""
    weights: Float[Tensor, " c"]
    """w: the mean over patches of dp_i/dA."""
    probability: float
    attention: Float[Tensor, "1 t t"] | None
    """The last block's head-averaged attention map, if requested."""


@dataclass
class AutogradBlock:
    """The last block of f on the stored tokens of one image. `passes` counts forward and backward passes."""

    encoder: Encoder
    tokens: Float[Tensor, "1 t c"]
    """Input of the last block."""
    attention: bool = False
    """Also return the attention map of each pass, as the official wrapper always does."""
    passes: int = field(default=0, init=False)

    def cam(self, index: int, texts: Float[Tensor, "n d"]) -> QueryCam:
        """Return the GradCAM of text `index`: the softmax over all `texts` is differentiated to A, the block's ln_1.

        The softmax has the precision of `texts`.
        """
        self.passes += 1
        last = self.encoder.depth - 1
        normed = self.encoder.ln_1(self.tokens, last).detach().requires_grad_()
        with torch.enable_grad():
            out, attention = self.encoder.block(self.tokens, normed, last, attention=self.attention)
            z = self.encoder.project_mean(out[:, 1:])[0].to(texts)
            p = (self.encoder.scale * texts @ z).softmax(0)[index]
            (gradient,) = torch.autograd.grad(p, normed)
        patches, weights = normed.detach()[0, 1:], gradient[0, 1:].mean(0)
        return QueryCam((patches @ weights).relu(), weights, float(p.detach()), attention)

    def with_fallback(self, index: int, queries: Float[Tensor, "n d"], background: Float[Tensor, "m d"]) -> QueryCam:
        """Return `cam` against queries and background; if that is all zero, against the queries alone (CLIP-ES)."""
        result = self.cam(index, torch.cat([queries, background]))
        return result if bool(result.cam.any()) else self.cam(index, queries)


def cams(block: AutogradBlock, queries: Float[Tensor, "n d"], background: Float[Tensor, "m d"]) -> Float[Tensor, "n p"]:
    """Return the GradCAMs of all queries, 0..1, like worker.segmenter.proposals.gradcams."""
    return min_max(torch.stack([block.with_fallback(i, queries, background).cam for i in range(len(queries))]))
