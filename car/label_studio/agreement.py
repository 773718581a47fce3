"""What a person made of our masks, label by label."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from car.label_studio.annotation_masks import AnnotationMasks


class Outcome(StrEnum):
    ACCEPTED = "accepted"
    """The person kept our mask, or nearly so."""
    CHANGED = "changed"
    REJECTED = "rejected"
    """We predicted the label, and the person took it away."""
    MISSED = "missed"
    """The person drew a label that we had not found."""


@dataclass(frozen=True)
class LabelAgreement:
    """On one label of a prediction."""

    label: str
    outcome: Outcome
    iou: float | None
    """None where there was no mask of ours or of theirs."""
    score: float | None
    """Of our mask, the best one of the label."""


ACCEPT_IOU: Final = 0.9
"""IoU from which a mask counts as kept: its edge may have been touched up."""


def compare_annotations(
    ours: "AnnotationMasks", theirs: "AnnotationMasks", scores: Mapping[str, float]
) -> list[LabelAgreement]:
    """On every label that either has, in the order of ours, then of theirs."""
    from car.polygons import iou  # noqa: PLC0415 - with scipy, which readers of outcomes need not load

    found = []
    for label in dict.fromkeys([*ours.masks, *theirs.masks]):
        overlap = iou(ours.masks[label], theirs.masks[label]) if label in ours.masks and label in theirs.masks else None
        found.append(LabelAgreement(label, _outcome(overlap, mine=label in ours.masks), overlap, scores.get(label)))
    drawn = {one.label for one in found}
    for label in sorted((ours.choices | theirs.choices) - drawn):
        kept = label in ours.choices and label in theirs.choices
        outcome = Outcome.ACCEPTED if kept else _outcome(None, mine=label in ours.choices)
        found.append(LabelAgreement(label, outcome, None, scores.get(label)))
    return found


def _outcome(overlap: float | None, *, mine: bool) -> Outcome:
    if overlap is None:
        return Outcome.REJECTED if mine else Outcome.MISSED
    return Outcome.ACCEPTED if overlap >= ACCEPT_IOU else Outcome.CHANGED
