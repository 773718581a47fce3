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
from worker.segmenter.recurrence import Look
from worker.segmenter.sizes import Image

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

Steps = Generator[Crops, Float[Tensor, "m d"], R]
"""A recurrence: yields crops, at least one, and is sent their embeddings, until it rests."""

_PATIENCE = 4
"""So many batches of f may pass over a size; then it goes first."""


@dataclass(frozen=True, eq=False)
class Ask:
    """One picture, and what is asked of it."""

    key: Any
    """The caller's name for it."""
    image: Image
    vocabulary: Vocabulary
    recipe: Recipe
    observe: Callable[[Look], None] | None = None
    """Called with each step, once the picture rests."""
    wanted: Callable[[], bool] = lambda: True
    """Asked once more before the picture begins."""


@runtime_checkable
class Lens(Protocol):
    """g, as recipes of one kind use it. Crops of equal lenses share its batches."""

    def encode(self, crops: Crops, *, at_once: int, padded: bool) -> Float[Tensor, "m d"]: ...


@dataclass(frozen=True, eq=False)
class Begun(Generic[R_co]):
    """A picture that f has seen."""

    steps: Steps[R_co]
    lens: Lens | None = None
    """None where it yields no crops at all."""
    times: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Milliseconds by stage; of what pictures shared, its part. To be read when it rests."""


@runtime_checkable
class Eyes(Protocol[R_co]):
    """The models, as a flow uses them."""

    def kind(self, ask: Ask) -> Hashable:
        """Equal for pictures that can share a batch of f."""

    def begin(self, asks: Sequence[Ask], *, at_once: int) -> Sequence[Begun[R_co]]:
        """What f sees of pictures of one kind, in one batch filled up to `at_once`."""


@dataclass(eq=False)
class Waiting:
    ask: Ask
    kind: Hashable
    passed: int = 0
    """Batches of f that others were in while it waited."""


class Line:
    """Those that wait for f."""

    def __init__(self) -> None:
        self._waiting: list[Waiting] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, one: Waiting) -> None:
        self._waiting.append(one)

    def put_back(self, some: Sequence[Waiting]) -> None:
        """They were taken first, and are the first again."""
        self._waiting[:0] = some

    def take(self, at_once: int, *, most: int) -> list[Waiting]:
        """Those that f sees next, of one kind: `at_once` where there are so many of a kind, and no more than `most`."""
        kinds: dict[Hashable, list[Waiting]] = defaultdict(list)
        for one in self._waiting:
            kinds[one.kind].append(one)
        first = self._waiting[0]
        full = [some for some in kinds.values() if len(some) >= at_once]
        chosen = full[0] if full and first.passed < _PATIENCE else kinds[first.kind]
        chosen = chosen[: min(at_once, most)]
        self._waiting = [one for one in self._waiting if one not in chosen]
        for one in self._waiting:
            one.passed += 1
        return chosen
