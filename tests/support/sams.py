"""SAMs of random weights, and the official mask generator."""

from typing import Any

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam

from car.recipe import Recipe
from worker.segmenter.sam.network import SamSizes, build


def random_sam(sizes: SamSizes) -> Sam:
    """Build a SAM whose weights, always the same, are strong enough that masks differ from point to point."""
    torch.manual_seed(3)
    network = build(sizes)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1 or "rel_pos" in name:
                parameter.normal_(std=1.5 / parameter.shape[-1] ** 0.5)
    return network


def official(network: Sam, image: np.ndarray, recipe: Recipe, points_per_batch: int = 64) -> list[dict[str, Any]]:
    """Return the masks of segment_anything's generator with a recipe's settings."""
    generator = SamAutomaticMaskGenerator(
        network,
        points_per_side=recipe.sam_points_per_side,
        points_per_batch=points_per_batch,
        pred_iou_thresh=recipe.sam_pred_iou,
        stability_score_thresh=recipe.sam_stability,
        box_nms_thresh=recipe.sam_box_nms,
    )
    masks: list[dict[str, Any]] = generator.generate(image)
    return masks
