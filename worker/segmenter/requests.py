"""What the batch scheduler works with: requests, the models as it calls them, and the queue of requests before f."""

from collections import defaultdict
from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from car.recipe import Recipe
from car.vocabulary import Vocabulary
from worker.segmenter.classifier import Crops
from worker.segmenter.recurrence import StepTrace
from worker.segmenter.resizing import Image

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

Recurrence = Generator[Crops, Float[Tensor, "m d"], R]
"""Yields crops, at least one each time, and receives their embeddings; returns the result."""

_MAX_PASSED_OVER = 8
"""Batches of f that may pass over a request before its batch key goes first."""


@dataclass(frozen=True, eq=False)
class SegmentRequest:
    """An image to segment with a vocabulary and a recipe."""

    key: Any
    """The caller's name for the request."""
    image: Image
    vocabulary: Vocabulary
    recipe: Recipe
    observe: Callable[[StepTrace], None] | None = None
    """Called with each step once the recurrence has ended."""
    still_wanted: Callable[[], bool] = lambda: True
    """Called just before the image is started; False drops the request."""


@runtime_checkable
class CropEncoder(Protocol):
    """g as configured by a recipe. Crops of equal encoders share its batches."""

    def encode(self, crops: Crops, *, batch_size: int, padded: bool) -> Float[Tensor, "m d"]: ...


@dataclass(frozen=True, eq=False)
class StartedRequest(Generic[R_co]):
    """An image that f has encoded."""

    recurrence: Recurrence[R_co]
    encoder: CropEncoder | None = None
    """None if the recurrence yields no crops at all."""
    timings: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Milliseconds by stage, with the image's share of batches; complete once the recurrence has ended."""


@runtime_checkable
class ImageModel(Protocol[R_co]):
    """The models as the batch scheduler calls them."""

    def kind(self, request: SegmentRequest) -> Hashable:
        """Return a key that is equal for requests that can share a batch of f."""

    def begin(self, requests: Sequence[SegmentRequest], *, batch_size: int) -> Sequence[StartedRequest[R_co]]:
        """Encode images of one kind with f, in one batch that is padded to `batch_size`."""


@dataclass(eq=False)
class WaitingRequest:
    """A request that f has not seen yet, or has to see again."""

    request: SegmentRequest
    kind: Hashable
    passed_over: int = 0
    """Batches of f that went to other requests while it waited."""


class WaitingQueue:
    """The requests that wait for f."""

    def __init__(self) -> None:
        self._waiting: list[WaitingRequest] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, request: WaitingRequest) -> None:
        self._waiting.append(request)

    def put_back(self, requests: Sequence[WaitingRequest]) -> None:
        """Return requests to the head of the queue."""
        self._waiting[:0] = requests

    def take(self, batch_size: int, *, limit: int) -> list[WaitingRequest]:
        """Remove and return the requests of f's next batch, at most `batch_size` and at most `limit`.

        They are of the most frequent kind, or of the first request's kind if that was passed over too often.
        """
        kinds: dict[Hashable, list[WaitingRequest]] = defaultdict(list)
        for waiting in self._waiting:
            kinds[waiting.kind].append(waiting)
        first = self._waiting[0]
        if first.passed_over < _MAX_PASSED_OVER:
            chosen = max(kinds.values(), key=lambda requests: min(batch_size, len(requests)))
        else:
            chosen = kinds[first.kind]
        chosen = chosen[: min(batch_size, limit)]
        self._waiting = [waiting for waiting in self._waiting if waiting not in chosen]
        for waiting in self._waiting:
            waiting.passed_over += 1
        return chosen
