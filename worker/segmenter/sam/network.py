"""Building a SAM of any size from the classes of the `segment_anything` package (Kirillov et al., ICCV 2023)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

MODEL_TYPE = "segment_anything"
"""`model_type` of a folder's config.json."""

PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""RGB bytes are standardised with these in every SAM."""

_MULTIMASKS = 3
_LAYER_NORM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class SamSizes:
    """The architecture of a SAM. The defaults are those that vit_b, vit_l and vit_h share."""

    width: int
    """Width of the image encoder's tokens."""
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    """Blocks with global attention; the others attend within windows."""
    image_size: int = 1024
    """Pixels of the longer side that an image is resized to."""
    patch: int = 16
    window: int = 14
    """Patches per side of a window."""
    relative_positions: bool = True
    prompt_width: int = 256
    """Width of the prompts, the image embedding and the mask decoder."""
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    quality_hidden: int = 256
    """Hidden width of the head that predicts a mask's IoU."""
    mask_prompt_width: int = 16

    @property
    def grid(self) -> int:
        """Patches per side of the padded image."""
        return self.image_size // self.patch

    def to_json(self) -> dict[str, Any]:
        return {"model_type": MODEL_TYPE} | asdict(self) | {"global_blocks": list(self.global_blocks)}

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> "SamSizes":
        """Raises: TypeError if a size is missing or unknown."""
        values = {key: value for key, value in doc.items() if key != "model_type"}
        return cls(**values | {"global_blocks": tuple(values.get("global_blocks", ()))})


VIT_H = SamSizes(width=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31))
VIT_L = SamSizes(width=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23))
VIT_B = SamSizes(width=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11))


def build(sizes: SamSizes) -> Sam:
    """Build a SAM with random weights, in evaluation mode."""
    grid, width = (sizes.grid, sizes.grid), sizes.prompt_width
    sam = Sam(
        image_encoder=ImageEncoderViT(
            img_size=sizes.image_size,
            patch_size=sizes.patch,
            embed_dim=sizes.width,
            depth=sizes.depth,
            num_heads=sizes.heads,
            global_attn_indexes=sizes.global_blocks,
            window_size=sizes.window,
            use_rel_pos=sizes.relative_positions,
            out_chans=width,
            norm_layer=partial(nn.LayerNorm, eps=_LAYER_NORM_EPS),
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=width,
            image_embedding_size=grid,
            input_image_size=(sizes.image_size, sizes.image_size),
            mask_in_chans=sizes.mask_prompt_width,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=_MULTIMASKS,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=width, mlp_dim=sizes.decoder_mlp, num_heads=sizes.decoder_heads
            ),
            transformer_dim=width,
            iou_head_depth=3,
            iou_head_hidden_dim=sizes.quality_hidden,
        ),
        pixel_mean=list(PIXEL_MEAN),
        pixel_std=list(PIXEL_STD),
    )
    return sam.eval()


def build_from_tensors(sizes: SamSizes, tensors: Mapping[str, Tensor]) -> Sam:
    """Build a frozen float32 SAM with these tensors, without initialising random weights first.

    Raises:
        RuntimeError: tensors are missing, unknown, or of other shapes.

    """
    with torch.device("meta"):
        sam = build(sizes)
    sam.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    # No checkpoint contains these two.
    sam.pixel_mean = torch.tensor(PIXEL_MEAN).view(-1, 1, 1)
    sam.pixel_std = torch.tensor(PIXEL_STD).view(-1, 1, 1)
    frozen: Sam = sam.requires_grad_(requires_grad=False)
    return frozen
