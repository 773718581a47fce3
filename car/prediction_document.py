"""A result as the prediction that Label Studio stores: regions made, bounded in size, validated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from car.errors import CarError
from car.project_plan import ProjectPlan
from car.prompts import Within
from car.rle import CocoRle


class PredictionInvalid(CarError):  # noqa: N818 - the code says what it is
    """A prediction that Label Studio's own validation refuses; it was not sent."""

    code = "prediction_invalid"


@dataclass(frozen=True)
class FoundMask:
    """A mask as masks.json holds it."""

    label: str
    score: float
    rle: CocoRle


@dataclass(frozen=True)
class Found:
    """What was found in a picture, in the pixels of its upright frame."""

    width: int
    height: int
    masks: tuple[FoundMask, ...]

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Self:
        """From masks.json as `worker.pipeline.objects.masks_document` writes it."""
        return cls(
            width=document["image"]["width"],
            height=document["image"]["height"],
            masks=tuple(FoundMask(m["label"], m["score"], m["rle"]) for m in document["masks"]),
        )


@dataclass(frozen=True)
class Document:
    """A prediction, ready to be sent."""

    text: str
    """JSON {"model_version", "score", "result"}."""
    score: float
    notes: tuple[str, ...]
    """What is shown otherwise than the configuration asks, or left out, and why."""


def prediction_document(
    label_config: str,
    plan: ProjectPlan,
    found: Found,
    *,
    run_key: str,
    model_version: str,
    only: Sequence[str] | None = None,
    within: Within | None = None,
) -> Document:
    """The prediction of a result. Equal arguments give equal text.

    Raises:
        PredictionInvalid: Label Studio's validation refuses it.

    """
    raise NotImplementedError
