"""Agreement of label maps with the ground truth: IoU per class over a data set, and measures of boundaries."""

from dataclasses import dataclass, field
from typing import Self

import cv2
import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer


@dataclass
class ConfusionMatrix:
    """Pixels by true class (rows) and predicted class (columns), summed over images. Class 0 is the background."""

    classes: int
    counts: Int64[np.ndarray, "classes classes"] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros((self.classes, self.classes), np.int64)

    def add(self, truth: Integer[np.ndarray, "h w"], predicted: Integer[np.ndarray, "h w"]) -> Self:
        """Count one image without pixels whose truth is no class (such as 255, the border of VOC)."""
        if truth.shape != predicted.shape:
            raise ValueError(f"truth {truth.shape} and prediction {predicted.shape} differ in size")
        valid = (truth >= 0) & (truth < self.classes)
        labels = predicted[valid].astype(np.int64)
        if labels.size and not 0 <= labels.min() <= labels.max() < self.classes:
            raise ValueError(f"predicted classes must be 0..{self.classes - 1}, got {labels.min()}..{labels.max()}")
        pairs = truth[valid].astype(np.int64) * self.classes + labels
        self.counts += np.bincount(pairs, minlength=self.classes**2).reshape(self.classes, self.classes)
        return self

    def iou(self, *, ignore_background: bool = False) -> Float64[np.ndarray, " classes"]:
        """Return the intersection over union of every class, 0..1; NaN for a class without true pixels.

        `ignore_background` drops row and column 0, as data sets without a background class are scored: a pixel of an
        object that was predicted as background is then not counted.
        """
        counts = self.counts.copy()
        if ignore_background:
            counts[0] = 0
            counts[:, 0] = 0
        true, hit = counts.sum(1), np.diag(counts)
        union = true + counts.sum(0) - hit
        return np.where(true > 0, hit / np.maximum(union, 1), np.nan)

    def miou(self, *, ignore_background: bool = False) -> float:
        """Return the mean IoU over classes with true pixels; NaN if there are none."""
        iou = self.iou(ignore_background=ignore_background)
        return float(iou[~np.isnan(iou)].mean()) if (~np.isnan(iou)).any() else float("nan")

    @property
    def pixel_accuracy(self) -> float:
        """Share of counted pixels that are right; NaN if none was counted."""
        total = int(self.counts.sum())
        return float(np.trace(self.counts)) / total if total else float("nan")


def mask_iou(truth: Bool[np.ndarray, "h w"], predicted: Bool[np.ndarray, "h w"]) -> float:
    """Return the IoU of two masks; 1 for two empty ones."""
    union = int(np.count_nonzero(truth | predicted))
    return int(np.count_nonzero(truth & predicted)) / union if union else 1.0


def boundary_f(truth: Bool[np.ndarray, "h w"], predicted: Bool[np.ndarray, "h w"], *, share: float = 0.008) -> float:
    """Return the F measure of boundary pixels, 0..1: DAVIS's F.

    A boundary pixel is right if the other mask's boundary is within `share` of the image's diagonal, rounded up.
    1 for two masks without a boundary, 0 if only one has none.
    """
    reach = int(np.ceil(share * float(np.hypot(*truth.shape))))
    true_edge, predicted_edge = boundary(truth), boundary(predicted)
    if not true_edge.any() or not predicted_edge.any():
        return float(true_edge.any() == predicted_edge.any())
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    precision = float(_grown(true_edge, disk)[predicted_edge].mean())
    recall = float(_grown(predicted_edge, disk)[true_edge].mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary_iou(truth: Bool[np.ndarray, "h w"], predicted: Bool[np.ndarray, "h w"], *, share: float = 0.008) -> float:
    """Return the IoU of the masks' inner boundaries, 0..1 (Cheng et al., Boundary IoU, CVPR 2021).

    It is much lower for a mask that is one pixel too large on all sides, which `boundary_f` tolerates. A boundary is
    `share` of the image's diagonal wide, rounded (the paper: 2 %); the image's border is an edge.
    """
    width = max(1, round(share * float(np.hypot(*truth.shape))))
    return mask_iou(_rim(truth, width), _rim(predicted, width))


def boundary(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Return the pixels that differ from their right, lower or lower right neighbour (DAVIS's seg2bmap)."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, corner = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return np.asarray((mask ^ right) | (mask ^ below) | (mask ^ corner))


def _rim(mask: Bool[np.ndarray, "h w"], width: int) -> Bool[np.ndarray, "h w"]:
    padded = np.pad(mask.astype(np.uint8), 1)
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    return np.asarray(mask & (inner == 0))


def _grown(edge: Bool[np.ndarray, "h w"], disk: np.ndarray) -> Bool[np.ndarray, "h w"]:
    return np.asarray(cv2.dilate(edge.astype(np.uint8), disk), bool)
