"""What can become of a label of a prediction in a person's hands."""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    ACCEPTED = "accepted"
    """The person kept our mask, or nearly so."""
    CHANGED = "changed"
    REJECTED = "rejected"
    """We predicted the label, and the person took it away."""
    MISSED = "missed"
    """The person drew a label that we had not found."""


@dataclass(frozen=True)
class Opinion:
    """On one label of a prediction."""

    label: str
    outcome: Outcome
    iou: float | None
    """None where there was no mask of ours or of theirs."""
    score: float | None
    """Of our mask, the best one of the label."""
