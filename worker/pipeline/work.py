"""What passes through the pipeline, and what it asks of its surroundings."""

from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from car.recipe import Recipe
from car.segmentation import Segmentation
from car.vocabulary import Vocabulary
from db.items import Claimed
from worker.images import ImageLimits, Picture


class Model(Protocol):
    """The part of a segmenter that needs the device: used by one thread."""

    @property
    def weights(self) -> Mapping[str, str]:
        """Role to sha256, of the pair that most recipes use."""

    @property
    def device(self) -> str:
        """Its name, for people."""

    batch: int
    """Pictures that are computed together at most."""

    def weights_for(self, recipe: Recipe) -> Mapping[str, str]:
        """Of the pair that this recipe uses.

        Raises:
            CarError: this worker does not have it.

        """

    def bucket(self, picture: Picture, recipe: Recipe) -> Hashable:
        """Equal for pictures that can share a forward pass."""

    def begin(self, images: Sequence[NDArray[np.uint8]], vocabulary: Vocabulary, recipe: Recipe) -> list[Any]:
        """One unfinished picture each, for `Finish`.

        Raises:
            OutOfMemory: fewer pictures at once may go.

        """


class Finish(Protocol):
    """The part that needs a CPU."""

    def submit(self, unfinished: Any) -> Future[Segmentation]: ...  # noqa: ANN401 - whatever `Model.begin` gave


class Pictures(Protocol):
    """Where pictures come from: see worker.images.fetch.Sources."""

    def read(self, uri: str, *, instance: str | None = None, task: int | None = None) -> bytes: ...

    def close(self) -> None: ...


class Objects(Protocol):
    """The part of db.objects.ObjectStore that the pipeline uses: see there."""

    def read(self, bucket: str, key: str, *, max_bytes: int | None = None) -> bytes: ...

    def put(self, name: str, data: bytes, content_type: str) -> str: ...


@dataclass(frozen=True)
class Limits:
    """How much is in hand at a time."""

    lease: timedelta = timedelta(seconds=30)
    fetch_threads: int = 8
    store_threads: int = 8
    images: ImageLimits = ImageLimits()
    ahead: int = 3
    """Batches that are claimed and on their way at most, the one on the device included."""
    grace_seconds: float = 20.0
    """Of a worker that was told to stop, for what it has begun."""

    def claims(self, batch: int) -> int:
        return max(8, self.ahead * batch)


@dataclass(frozen=True)
class Wish:
    """What an item's job wants of its picture."""

    vocabulary_id: UUID
    recipe_id: UUID
    vocabulary: Vocabulary
    recipe: Recipe
    weights: Mapping[str, str]
    model_version: str


@dataclass(frozen=True, eq=False)
class Fetched:
    """An item whose picture is here."""

    item: Claimed
    wish: Wish
    picture: Picture
    run_key: str
    preview_key: str | None = None
    """Of its preview, where there is one already."""


@dataclass
class Drained:
    """What one call of the pipeline did."""

    done: int = 0
    reused: int = 0
    failed: int = 0
    handed_back: int = 0
    dropped: int = 0
    """Results of items that were not this worker's any more."""
    batches: int = 0
    seconds: float = 0.0
    busy_seconds: float = 0.0
    """Of `seconds`, those in which the model computed."""
    first_batch_seconds: float | None = None
    """From the beginning to the first batch: where waiting cannot be avoided."""
    more: bool = False
    """Something may be left to claim."""
