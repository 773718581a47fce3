"""Agreement of label maps with the ground truth: IoU per class over a whole set, and the F measure of boundaries."""

from dataclasses import dataclass, field
from typing import Self

import cv2
import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer


@dataclass
class ConfusionMatrix:
    """Pixels by true class (rows) and predicted class (columns), summed over pictures. Class 0 is the background."""

    classes: int
    counts: Int64[np.ndarray, "classes classes"] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros((self.classes, self.classes), np.int64)

    def add(self, truth: Integer[np.ndarray, "h w"], predicted: Integer[np.ndarray, "h w"]) -> Self:
        """Count one picture. Pixels whose truth is no class (such as 255, the border of VOC) are left out."""
        if truth.shape != predicted.shape:
            raise ValueError(f"truth {truth.shape} and prediction {predicted.shape} differ in size")
        known = (truth >= 0) & (truth < self.classes)
        said = predicted[known].astype(np.int64)
        if said.size and not 0 <= said.min() <= said.max() < self.classes:
            raise ValueError(f"predicted classes must lie in 0..{self.classes - 1}, got {said.min()}..{said.max()}")
        pairs = truth[known].astype(np.int64) * self.classes + said
        self.counts += np.bincount(pairs, minlength=self.classes**2).reshape(self.classes, self.classes)
        return self

    def iou(self, *, ignore_background: bool = False) -> Float64[np.ndarray, " classes"]:
        """Intersection over union of every class, 0..1; NaN for a class that the ground truth never shows.

        `ignore_background` drops row AND column 0, as the data sets without a background class are scored: a labelled
        pixel that was called background is then not counted at all.
        """
        counts = self.counts.copy()
        if ignore_background:
            counts[0] = 0
            counts[:, 0] = 0
        shown, hit = counts.sum(1), np.diag(counts)
        union = shown + counts.sum(0) - hit
        return np.where(shown > 0, hit / np.maximum(union, 1), np.nan)

    def miou(self, *, ignore_background: bool = False) -> float:
        """Mean IoU over the classes that the ground truth shows; NaN where it shows none."""
        iou = self.iou(ignore_background=ignore_background)
        return float(iou[~np.isnan(iou)].mean()) if (~np.isnan(iou)).any() else float("nan")

    @property
    def pixel_accuracy(self) -> float:
        """Share of counted pixels that are right; NaN where none was counted."""
        total = int(self.counts.sum())
        return float(np.trace(self.counts)) / total if total else float("nan")


def mask_iou(truth: Bool[np.ndarray, "h w"], predicted: Bool[np.ndarray, "h w"]) -> float:
    """IoU of two masks; 1 for two empty ones."""
    union = int(np.count_nonzero(truth | predicted))
    return int(np.count_nonzero(truth & predicted)) / union if union else 1.0


def boundary_f(truth: Bool[np.ndarray, "h w"], predicted: Bool[np.ndarray, "h w"], *, share: float = 0.008) -> float:
    """F measure of boundary pixels, 0..1: DAVIS's F.

    A boundary pixel is right if the other mask's boundary passes within `share` of the picture's diagonal, rounded up.
    1 for two masks without a boundary, 0 if one alone has none.
    """
    reach = int(np.ceil(share * float(np.hypot(*truth.shape))))
    true_edge, said_edge = boundary(truth), boundary(predicted)
    if not true_edge.any() or not said_edge.any():
        return float(true_edge.any() == said_edge.any())
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    precision = float(_grown(true_edge, disk)[said_edge].mean())
    recall = float(_grown(said_edge, disk)[true_edge].mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary_iou(truth: Bool[np.ndarray, "h w"], predicted: Bool[np.ndarray, "h w"], *, share: float = 0.008) -> float:
    """IoU of the masks' inner rims, 0..1 (Cheng et al., Boundary IoU, CVPR 2021): a mask that is a pixel too large all
    round, which `boundary_f` forgives, loses much of it.

    A rim is as wide as `share` of the picture's diagonal, rounded (the paper: 2 %); a picture's border is an edge.
    1 for two empty masks.
    """
    width = max(1, round(share * float(np.hypot(*truth.shape))))
    return mask_iou(_rim(truth, width), _rim(predicted, width))


def boundary(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels that differ from their right, lower or lower right neighbour (DAVIS's seg2bmap)."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, corner = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return np.asarray((mask ^ right) | (mask ^ below) | (mask ^ corner))


def _rim(mask: Bool[np.ndarray, "h w"], width: int) -> Bool[np.ndarray, "h w"]:
    padded = np.pad(mask.astype(np.uint8), 1)
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    return np.asarray(mask & (inner == 0))


def _grown(edge: Bool[np.ndarray, "h w"], disk: np.ndarray) -> Bool[np.ndarray, "h w"]:
    return np.asarray(cv2.dilate(edge.astype(np.uint8), disk), bool)
