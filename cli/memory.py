"""How large a picture this machine can hold in attention maps: they grow with the square of a picture's area."""

import os
from typing import TYPE_CHECKING

from worker.images import DEFAULT_LIMITS, ImageLimits

if TYPE_CHECKING:
    import torch

_SHARE = 0.7
"""Of the memory there is: weights, the CRF and other programs need some too."""
_BYTES_PER_PAIR = 4 * (3 * 12 + 6)
"""float32 for every pair of patches: logits, weights and gradients of ViT-B's twelve heads, and CAA's matrices."""


def picture_limits(device: "torch.device", patch: int, max_side: int) -> ImageLimits:
    """The default limits, or fewer pixels where f would run out of memory: a machine that swaps, or a process that is
    killed, helps nobody's other pictures.

    Pictures longer than `max_side` (0: any length) are segmented at that size, so only their files count.
    """
    patches = (_SHARE * _memory(device) / _BYTES_PER_PAIR) ** 0.5
    if max_side and (max_side / patch) ** 2 <= patches:
        return DEFAULT_LIMITS
    return ImageLimits(max_pixels=min(DEFAULT_LIMITS.max_pixels, int(patches * patch**2)))


def _memory(device: "torch.device") -> int:
    """Bytes of the device in all."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
