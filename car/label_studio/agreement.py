"""Agreement of an annotation with a prediction, by label."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from car.label_studio.annotation_masks import AnnotationMasks


class Outcome(StrEnum):
    ACCEPTED = "accepted"
    """The annotator kept our mask, at most with small changes."""
    CHANGED = "changed"
    REJECTED = "rejected"
    """We predicted the label, and the annotator removed it."""
    MISSED = "missed"
    """The annotator added a label that we had not predicted."""


@dataclass(frozen=True)
class LabelAgreement:
    """The agreement on one label."""

    label: str
    outcome: Outcome
    iou: float | None
    """None if either has no mask."""
    score: float | None
    """The highest score of our masks of the label."""


ACCEPT_IOU: Final = 0.9
"""From this IoU on a mask counts as accepted; small corrections of its edge are allowed."""


def compare_annotations(
    predicted: "AnnotationMasks", annotated: "AnnotationMasks", scores: Mapping[str, float]
) -> list[LabelAgreement]:
    """Return the agreement on every label of either, in the order of the prediction, then of the annotation."""
    from car.polygons import iou  # noqa: PLC0415 - with scipy, which readers of outcomes need not load

    found = []
    for label in dict.fromkeys([*predicted.masks, *annotated.masks]):
        overlap = (
            iou(predicted.masks[label], annotated.masks[label])
            if label in predicted.masks and label in annotated.masks
            else None
        )
        found.append(
            LabelAgreement(label, _outcome(overlap, predicted=label in predicted.masks), overlap, scores.get(label))
        )
    drawn = {one.label for one in found}
    for label in sorted((predicted.choices | annotated.choices) - drawn):
        kept = label in predicted.choices and label in annotated.choices
        outcome = Outcome.ACCEPTED if kept else _outcome(None, predicted=label in predicted.choices)
        found.append(LabelAgreement(label, outcome, None, scores.get(label)))
    return found


def _outcome(overlap: float | None, *, predicted: bool) -> Outcome:
    if overlap is None:
        return Outcome.REJECTED if predicted else Outcome.MISSED
    return Outcome.ACCEPTED if overlap >= ACCEPT_IOU else Outcome.CHANGED
