"""What a person made of our masks, label by label."""

from collections.abc import Mapping
from typing import Final

from car.annotation_masks import Drawn
from car.outcomes import Opinion, Outcome
from car.outlines import iou

SAME: Final = 0.9
"""IoU from which a mask counts as kept: its edge may have been touched up."""


def opinions(ours: Drawn, theirs: Drawn, scores: Mapping[str, float]) -> list[Opinion]:
    """On every label that either has, in the order of ours, then of theirs."""
    found = []
    for label in dict.fromkeys([*ours.masks, *theirs.masks]):
        overlap = iou(ours.masks[label], theirs.masks[label]) if label in ours.masks and label in theirs.masks else None
        found.append(Opinion(label, _outcome(overlap, mine=label in ours.masks), overlap, scores.get(label)))
    drawn = {one.label for one in found}
    for label in sorted((ours.choices | theirs.choices) - drawn):
        kept = label in ours.choices and label in theirs.choices
        outcome = Outcome.ACCEPTED if kept else _outcome(None, mine=label in ours.choices)
        found.append(Opinion(label, outcome, None, scores.get(label)))
    return found


def _outcome(overlap: float | None, *, mine: bool) -> Outcome:
    if overlap is None:
        return Outcome.REJECTED if mine else Outcome.MISSED
    return Outcome.ACCEPTED if overlap >= SAME else Outcome.CHANGED
