"""What passes through the pipeline, and what it asks of its surroundings."""

from collections.abc import Callable, Mapping
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
from db.queue.items import ClaimedItem
from worker.images import DecodedImage, ImageLimits
from worker.pipeline.adaptive_limit import AdaptiveLimit


@dataclass(frozen=True)
class RunSpec:
    """What an item's job wants of its picture."""

    vocabulary_id: UUID
    recipe_id: UUID
    vocabulary: Vocabulary
    recipe: Recipe
    weights: Mapping[str, str]
    model_version: str


@dataclass(frozen=True, eq=False)
class FetchedItem:
    """An item whose picture is here."""

    item: ClaimedItem
    spec: RunSpec
    image: DecodedImage
    run_key: str
    preview_key: str | None = None
    """Of its preview, where there is one already."""


class Model(Protocol):
    """The part of a segmenter that needs the device: used by one thread."""

    @property
    def weights(self) -> Mapping[str, str]:
        """Role to sha256, of the pair that most recipes use."""

    @property
    def device(self) -> str:
        """Its name, for people."""

    batch: int
    """Pictures that are under way through it together at most."""

    def weights_for(self, recipe: Recipe) -> Mapping[str, str]:
        """Of the pair that this recipe uses.

        Raises:
            CarError: this worker does not have it.

        """

    def scheduler(self) -> "Scheduler":
        """An empty one."""


class Scheduler(Protocol):
    """Pictures under way through the model, whatever their words and recipes, each handed on as soon as it is ready.
    What goes wrong with a picture is its own affair; see worker.segmenter.batch_scheduler.
    """

    shortages: int
    """How often memory ran out, so that fewer pictures went on together."""

    def __len__(self) -> int:
        """Pictures put in and not handed on."""

    @property
    def room(self) -> int:
        """How many more may be put in now."""

    def add_request(
        self,
        key: FetchedItem,
        image: NDArray[np.uint8],
        vocabulary: Vocabulary,
        recipe: Recipe,
        *,
        still_wanted: Callable[[], bool],
    ) -> None:
        """`wanted` is asked when the model is about to begin with the picture, if ever."""

    def step(self) -> list[tuple[FetchedItem, Any]]:
        """Compute a little. Those that are ready now: each with its unfinished picture for `Finish`, the exception that
        ended it (MemoryError: too large for the device even by itself), or None where it was not wanted any more.
        """


class Postprocess(Protocol):
    """The part that needs a CPU."""

    def submit(self, pending: Any) -> Future[Segmentation]: ...  # noqa: ANN401 - whatever `Flow.turn` gave


class ImageReader(Protocol):
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
    claim_factor: int = 2
    """Times as many pictures are claimed at least as the model takes: the others are on their way to it or from it."""
    max_claimed: int = 64
    """Pictures that are claimed at most, where the model would wait with fewer; at least four times its batch."""
    max_image_bytes: int = 2 * 2**30
    """Decoded pictures in hand: while there are more, the next wait to be fetched."""
    grace_seconds: float = 20.0
    """Of a worker that was told to stop, for what it has begun."""

    def adaptive_limit(self, batch: int) -> AdaptiveLimit:
        return AdaptiveLimit(max(8, self.claim_factor * batch), max(self.max_claimed, 2 * self.claim_factor * batch))


@dataclass
class DrainStats:
    """What one call of the pipeline did."""

    done: int = 0
    reused: int = 0
    failed: int = 0
    released: int = 0
    dropped: int = 0
    """Results of items that were not this worker's any more."""
    model_steps: int = 0
    """Of the model: it computes, and then takes what has come and hands on what is ready."""
    seconds: float = 0.0
    busy_seconds: float = 0.0
    """Of `seconds`, those in which the model computed."""
    first_step_seconds: float | None = None
    """From the beginning to the model's first turn: where waiting cannot be avoided."""
    has_more: bool = False
    """Something may be left to claim."""
