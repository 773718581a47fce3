"""What a flow is asked and how it sees: pictures, the models as it uses them, and the line in which pictures wait."""

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

Steps = Generator[Crops, Float[Tensor, "m d"], R]
"""A recurrence: yields crops, at least one, and is sent their embeddings, until it rests."""

_PATIENCE = 8
"""So many batches of f may pass over a picture; then its size goes first."""


@dataclass(frozen=True, eq=False)
class SegmentRequest:
    """One picture, and what is asked of it."""

    key: Any
    """The caller's name for it."""
    image: Image
    vocabulary: Vocabulary
    recipe: Recipe
    observe: Callable[[StepTrace], None] | None = None
    """Called with each step, once the picture rests."""
    still_wanted: Callable[[], bool] = lambda: True
    """Asked once more before the picture begins."""


@runtime_checkable
class CropEncoder(Protocol):
    """g, as recipes of one kind use it. Crops of equal lenses share its batches."""

    def encode(self, crops: Crops, *, at_once: int, padded: bool) -> Float[Tensor, "m d"]: ...


@dataclass(frozen=True, eq=False)
class StartedRequest(Generic[R_co]):
    """A picture that f has seen."""

    steps: Steps[R_co]
    encoder: CropEncoder | None = None
    """None where it yields no crops at all."""
    times: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Milliseconds by stage; of what pictures shared, its part. To be read when it rests."""


@runtime_checkable
class ImageModel(Protocol[R_co]):
    """The models, as a flow uses them."""

    def kind(self, ask: SegmentRequest) -> Hashable:
        """Equal for pictures that can share a batch of f."""

    def begin(self, asks: Sequence[SegmentRequest], *, at_once: int) -> Sequence[StartedRequest[R_co]]:
        """What f sees of pictures of one kind, in one batch filled up to `at_once`."""


@dataclass(eq=False)
class WaitingRequest:
    request: SegmentRequest
    kind: Hashable
    passed: int = 0
    """Batches of f that others were in while it waited."""


class WaitingQueue:
    """Those that wait for f."""

    def __init__(self) -> None:
        self._waiting: list[WaitingRequest] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, one: WaitingRequest) -> None:
        self._waiting.append(one)

    def put_back(self, some: Sequence[WaitingRequest]) -> None:
        """They were taken first, and are the first again."""
        self._waiting[:0] = some

    def take(self, at_once: int, *, most: int) -> list[WaitingRequest]:
        """Those that f sees next: of the kind of which most are here, and of the first in line's where it has been
        passed over often enough; `at_once` at most, which fill a batch, and `most`.
        """
        kinds: dict[Hashable, list[WaitingRequest]] = defaultdict(list)
        for one in self._waiting:
            kinds[one.kind].append(one)
        first = self._waiting[0]
        patient = first.passed < _PATIENCE
        chosen = max(kinds.values(), key=lambda some: min(at_once, len(some))) if patient else kinds[first.kind]
        chosen = chosen[: min(at_once, most)]
        self._waiting = [one for one in self._waiting if one not in chosen]
        for one in self._waiting:
            one.passed += 1
        return chosen
