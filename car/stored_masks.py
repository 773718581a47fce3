"""Stored masks of an image: the document masks.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from car.rle import CocoRle


@dataclass(frozen=True)
class StoredMask:
    """A mask of masks.json."""

    label: str
    """The requested label."""
    score: float
    rle: CocoRle


@dataclass(frozen=True)
class StoredMasks:
    """The masks of an image, in pixels of the upright image."""

    width: int
    height: int
    masks: tuple[StoredMask, ...]

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Return the masks of a document that `worker.pipeline.result_objects` wrote."""
        return cls(
            width=document["image"]["width"],
            height=document["image"]["height"],
            masks=tuple(StoredMask(m["label"], m["score"], m["rle"]) for m in document["masks"]),
        )
