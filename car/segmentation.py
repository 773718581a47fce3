"""The result of segmenting one image: masks, and the query history."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from car.rle import CocoRle


class StopReason(StrEnum):
    UNCHANGED = "unchanged"
    """A step kept all its queries."""
    ONE_LEFT = "one_left"
    """One query was left, whose score can only be 1."""
    NONE_LEFT = "none_left"
    """All queries were dropped (only if the recipe allows it)."""
    STEP_LIMIT = "step_limit"
    """The recipe's max_steps was reached before the set of queries was stable."""


class MaskSource(StrEnum):
    CRF = "crf"
    SAM = "sam"


class Pass(StrEnum):
    """One recurrence over things or stuff; a recipe with stuff labels has both."""

    THINGS = "things"
    STUFF = "stuff"


@dataclass(frozen=True)
class QueryScore:
    """One query of one step."""

    label: str
    text: str
    """The text that the proposal model got in this step."""
    score: float
    """Diagonal of the similarity matrix after the last softmax, 0..1."""
    kept: bool
    area: int
    """Pixels of the proposal above eta, which the classifier saw."""
    iou_previous: float | None = None
    """IoU of that proposal with the one of the step before; none in step 1."""
    rival: str | None = None
    """The label that the classifier found most similar to this query's proposal, if it is another label."""
    rival_score: float | None = None


@dataclass(frozen=True)
class Step:
    """One step of the recurrence: its input queries, in the order of the vocabulary. Steps count from 1."""

    step: int
    queries: tuple[QueryScore, ...]
    pass_kind: Pass = Pass.THINGS


@dataclass(frozen=True)
class Mask:
    """The pixels of one label that survived; never empty."""

    label: str
    score: float
    area: int
    bbox: tuple[int, int, int, int]
    """x, y, width, height in pixels, from the top left."""
    rle: CocoRle
    source: MaskSource = MaskSource.CRF


@dataclass(frozen=True)
class WorkCounters:
    """Counts of what was computed for one image, independent of the machine."""

    proposal_forwards: int = 0
    vector_jacobian_products: int = 0
    crops_encoded: int = 0
    crops_reused: int = 0
    crf_runs: int = 0

    def __add__(self, other: "WorkCounters") -> "WorkCounters":
        mine, theirs = asdict(self), asdict(other)
        return WorkCounters(**{name: mine[name] + theirs[name] for name in mine})


@dataclass(frozen=True)
class Segmentation:
    """The masks of one image in the order of the vocabulary, without empty ones, and the query history."""

    width: int
    height: int
    masks: tuple[Mask, ...]
    steps: tuple[Step, ...]
    stop_reason: StopReason
    timings: Mapping[str, float] = field(default_factory=dict)
    """Milliseconds by stage; empty without a clock."""
    work: WorkCounters = field(default_factory=WorkCounters)

    def to_json(self) -> dict[str, Any]:
        """Return `stop_reason`, `steps`, `masks`, `timings` and `work` as JSON values."""
        return {
            "stop_reason": str(self.stop_reason),
            "steps": [_step_json(step) for step in self.steps],
            "masks": self.masks_json(),
            "timings": dict(self.timings),
            "work": asdict(self.work),
        }

    def masks_json(self) -> list[dict[str, Any]]:
        """Return `masks` of `to_json`."""
        return [asdict(mask) | {"bbox": list(mask.bbox), "source": str(mask.source)} for mask in self.masks]


def _step_json(step: Step) -> dict[str, Any]:
    return {"step": step.step, "pass": str(step.pass_kind), "queries": [asdict(query) for query in step.queries]}
