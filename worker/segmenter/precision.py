"""In how many bits the models compute.

On CUDA half precision means the whole model, as the paper ran it. A CPU in bfloat16 rounds less: the matrices of the
image tower's blocks alone, which are all of its time; tokens, norms, softmax, projection and texts stay float32.
"""

from enum import StrEnum
from typing import Any

import torch


class Precision(StrEnum):
    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"

    def on(self, device: torch.device) -> torch.dtype:
        """What `auto` means there: float32 on a CPU, half precision on CUDA."""
        if self is Precision.AUTO:
            return torch.float16 if device.type == "cuda" else torch.float32
        dtype: torch.dtype = getattr(torch, self)
        return dtype


def lower_blocks(model: Any, dtype: torch.dtype) -> None:  # noqa: ANN401 - transformers publishes no types
    """Round the matrices of a CLIPModel's image tower's blocks, in place."""
    for layer in model.vision_model.encoder.layers:
        attention = layer.self_attn
        for matrix in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj, layer.mlp.fc1):
            matrix.to(dtype)
        layer.mlp.fc2.to(dtype)
