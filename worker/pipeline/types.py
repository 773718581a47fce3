"""The types that pass through the pipeline, and the interfaces that it needs."""

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
    """Vocabulary, recipe and weights of an item's run."""

    vocabulary_id: UUID
    recipe_id: UUID
    vocabulary: Vocabulary
    recipe: Recipe
    weights: Mapping[str, str]
    model_version: str


@dataclass(frozen=True, eq=False)
class FetchedItem:
    """An item with its decoded image."""

    item: ClaimedItem
    spec: RunSpec
    image: DecodedImage
    run_key: str
    preview_key: str | None = None
    """Object key of its preview, if there is one already."""


class Model(Protocol):
    """The part of a segmenter that needs the device; for one thread."""

    @property
    def weights(self) -> Mapping[str, str]:
        """Role to sha256 of the default models."""

    @property
    def device(self) -> str:
        """Name of the device, for people."""

    batch: int
    """Most images in the model at a time."""

    def weights_for(self, recipe: Recipe) -> Mapping[str, str]:
        """Return role to sha256 of the recipe's models. Raises: CarError, if this worker does not have them."""

    def scheduler(self) -> "Scheduler":
        """Return a new, empty scheduler."""


class Scheduler(Protocol):
    """Continuous batching over images of any vocabulary and recipe; see worker.segmenter.batch_scheduler. Each image is
    returned as soon as it is ready, and an error concerns its own image only.
    """

    shortages: int
    """How often memory ran out, so that an image was preempted."""

    def __len__(self) -> int:
        """Images that were added and not yet returned."""

    @property
    def room(self) -> int:
        """Images that may be added now."""

    def add_request(
        self,
        key: FetchedItem,
        image: NDArray[np.uint8],
        vocabulary: Vocabulary,
        recipe: Recipe,
        *,
        still_wanted: Callable[[], bool],
    ) -> None:
        """Add an image; `still_wanted` is called just before the model would start with it."""

    def step(self) -> list[tuple[FetchedItem, Any]]:
        """Compute one step and return the images that are ready, each with its pending segmentation for `Postprocess`,
        the exception that ended it (MemoryError: too large for the device even alone), or None if it was not started.
        """


class Postprocess(Protocol):
    """The part of segmentation that needs a CPU."""

    def submit(self, pending: Any) -> Future[Segmentation]: ...  # noqa: ANN401 - what `Scheduler.step` returned


@dataclass(frozen=True)
class Limits:
    """Bounds of what a worker claims and works on at a time."""

    lease: timedelta = timedelta(seconds=30)
    fetch_threads: int = 8
    store_threads: int = 8
    images: ImageLimits = ImageLimits()
    claim_factor: int = 2
    """Fewest claimed images, in batches of the model: the others are fetched, postprocessed or stored meanwhile."""
    max_claimed: int = 64
    """Most claimed images, if fewer would let the model wait; at least twice the fewest."""
    max_image_bytes: int = 2 * 2**30
    """Memory of decoded images above which fetching pauses."""
    grace_seconds: float = 20.0
    """Time that a stopping worker has for what it has started."""

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
    """Results of items that this worker no longer owned."""
    model_steps: int = 0
    """Steps of the model's scheduler."""
    seconds: float = 0.0
    busy_seconds: float = 0.0
    """The part of `seconds` in which the model computed."""
    first_step_seconds: float | None = None
    """Time until the model's first step, before which waiting cannot be avoided."""
    has_more: bool = False
    """Something may be left to claim."""
