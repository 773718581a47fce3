"""What was found in a picture, as the object masks.json holds it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from car.rle import CocoRle


@dataclass(frozen=True)
class StoredMask:
    """A mask as masks.json holds it."""

    label: str
    """The name under which it was asked for."""
    score: float
    rle: CocoRle


@dataclass(frozen=True)
class StoredMasks:
    """What was found in a picture, in the pixels of its upright frame."""

    width: int
    height: int
    masks: tuple[StoredMask, ...]

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """From masks.json as `worker.pipeline.result_objects.masks_document` writes it."""
        return cls(
            width=document["image"]["width"],
            height=document["image"]["height"],
            masks=tuple(StoredMask(m["label"], m["score"], m["rle"]) for m in document["masks"]),
        )
