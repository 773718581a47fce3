"""Continuous batching: pictures in flight share the batches of f and g, and whichever comes to rest makes room at once.

The policy, in the order of what costs most:

* g's batches are full as long as there are pictures: a batch takes the crops of whoever has waited longest, and a
  picture that lacks none of its own goes on, while others still wait for the rest of theirs.
* Pictures begin when g has no full batch left to do, and no earlier: what they hold in memory grows with g's batch.
* f takes pictures of the size of which most are waiting. It would rather begin with a part of a batch than leave g one,
  as its batch costs a small part of g's. A size that has been passed over often enough goes first.
* g's batch is padded where no picture is left to begin, and not before.

Batches have one shape each, whatever is in them, so a result does not depend on who shares them. Where `images` is 1,
as on a CPU, one picture is in flight at a time, nothing is padded, and a result is the same to the last bit.

Pictures are none the wiser for each other's troubles. What an error strikes fails by itself, for a batch that fails is
tried again picture by picture. Where memory runs out, the younger half of the pictures in flight begins again later,
the others lose nothing, and fewer are in flight for a while; a picture alone gets the smallest batches, then fails.
"""

import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from car.recipe import Recipe
from car.vocabulary import Vocabulary
from worker.segmenter.classifier import Crops
from worker.segmenter.postprocess import Clock
from worker.segmenter.requests import (
    CropEncoder,
    ImageModel,
    SegmentRequest,
    StartedRequest,
    WaitingQueue,
    WaitingRequest,
)
from worker.segmenter.resizing import Image

R = TypeVar("R")

Completed = tuple[Any, R | Exception | None]
"""A picture's key, and where it came to rest: its result, the error that ended it, or None where nobody wanted it any
more when its turn came."""

_SMALLER = 8
"""So many times fewer crops are in g's batch where a picture alone needs more memory than there is."""
_SHORT = (torch.OutOfMemoryError, MemoryError)


@dataclass
class BatchStats:
    """What was in the batches."""

    f_batches: int = 0
    f_pictures: int = 0
    g_batches: int = 0
    g_crops: int = 0


@dataclass(eq=False)
class RunningImage(Generic[R]):
    """A picture in flight. It waits for the embeddings of `crops`."""

    waited: WaitingRequest
    begun: StartedRequest[R]
    number: int
    crops: Crops = field(default_factory=lambda: torch.zeros(0, 0, 0, 3, dtype=torch.uint8))
    parts: list[Float[Tensor, "_ d"]] = field(default_factory=list)
    """Embeddings of the first of `crops`."""

    @property
    def seen(self) -> int:
        return sum(len(part) for part in self.parts)

    @property
    def left(self) -> int:
        return len(self.crops) - self.seen


class BatchScheduler(Generic[R]):
    """Pictures under way, for one thread: it puts them in while there is `room`, and takes `turn`s."""

    def __init__(
        self, eyes: ImageModel[R], *, images: int, crops: int, most: int = 0, clock: Clock | None = None
    ) -> None:
        """`images` and `crops` are the shapes of f's and g's batches; `most` is how many pictures are held, those that
        wait for f included, among which it finds some of one size.
        """
        self._eyes, self._images, self._crops, self._clock = eyes, images, crops, clock
        self._most = 1 if images == 1 else most or images + crops
        self._limit = self._most
        """Pictures in flight; fewer after memory ran out."""
        self._calm = 0
        self._alone: WaitingRequest | None = None
        """Needs the smallest batches, and has no company."""
        self._line = WaitingQueue()
        self._flights: list[RunningImage[R]] = []
        """Who has waited longest for g comes first."""
        self._numbers = count()
        self._rested: list[Completed[R]] = []
        self.slots = BatchStats()
        self.shortages = 0
        """How often memory ran out."""

    def __len__(self) -> int:
        """Pictures put in and not handed on."""
        return len(self._line) + len(self._flights) + len(self._rested)

    @property
    def room(self) -> int:
        """How many more pictures are of use to it now."""
        return max(0, self._most - len(self))

    def add_request(
        self,
        key: Any,  # noqa: ANN401 - the caller's, and handed back
        image: Image,
        vocabulary: Vocabulary,
        recipe: Recipe,
        *,
        still_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """`wanted` is asked once more before the picture begins."""
        self._put(SegmentRequest(key, image, vocabulary, recipe, still_wanted=still_wanted))

    def run(self, asks: Iterable[SegmentRequest]) -> Iterator[Completed[R]]:
        """All of them, each as soon as it rests."""
        source = iter(asks)
        while True:
            for ask in islice(source, self.room):
                self._put(ask)
            if not len(self):
                return
            yield from self.step()

    def _put(self, ask: SegmentRequest) -> None:
        try:
            self._line.put(WaitingRequest(ask, self._eyes.kind(ask)))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the others go on
            self._rested.append((ask.key, error))

    def step(self) -> list[Completed[R]]:
        """Compute a little, no more than a batch of g, and give those that have come to rest."""
        while len(self._line) and not self._rested and not self._full():
            at_once, most = (1, 1) if self._alone else (self._images, self._limit)
            if len(self._flights) >= most:
                break
            self._begin(self._line.take(at_once, most=most - len(self._flights)))
        if not self._rested:
            self._see()
        rested, self._rested = self._rested, []
        return rested

    def _full(self) -> bool:
        return max(self._left().values(), default=0) >= self._crops

    def _begin(self, some: list[WaitingRequest]) -> None:
        wanted = [one for one in some if one.request.still_wanted()]
        for one in some:
            if one not in wanted:
                self._end(one, None)
        if not wanted:
            return
        start = self._now()
        try:
            begun = self._eyes.begin([one.request for one in wanted], at_once=1 if self._alone else self._images)
        except Exception as error:  # noqa: BLE001 - neighbours go on
            failed = error
        else:
            self.slots.f_batches += 1
            self.slots.f_pictures += len(wanted)
            share = (self._now() - start) / len(wanted)
            self._take_off([self._flight(one, its, share) for one, its in zip(wanted, begun, strict=True)])
            return
        if isinstance(failed, _SHORT):
            self._preempt(failed, wanted)
        elif len(wanted) == 1:
            self._end(wanted[0], failed)
        else:
            for one in wanted:
                self._begin([one])

    def _flight(self, one: WaitingRequest, begun: StartedRequest[R], seconds: float) -> RunningImage[R]:
        if self._clock:
            begun.times["encode_ms"] += seconds * 1000
        return RunningImage(one, begun, next(self._numbers))

    def _take_off(self, fresh: list[RunningImage[R]]) -> None:
        for place, flight in enumerate(fresh):
            if len(self._flights) >= self._limit:  # memory has just run out
                self._line.put_back([one.waited for one in fresh[place:]])
                return
            self._advance(flight, None)

    def _advance(self, flight: RunningImage[R], answer: Float[Tensor, "m d"] | None) -> None:
        """To the crops that it wants to have seen next, or to rest."""
        steps = flight.begun.steps
        try:
            flight.crops, flight.parts = next(steps) if answer is None else steps.send(answer), []
        except StopIteration as rest:
            self._end(flight.waited, rest.value)
            return
        except Exception as error:  # noqa: BLE001 - neighbours go on
            failed = error
        else:
            self._flights.append(flight)
            return
        if isinstance(failed, _SHORT):
            self._preempt(failed, [flight.waited])
        else:
            self._end(flight.waited, failed)

    def _left(self) -> dict[CropEncoder | None, int]:
        """Crops that are to be seen, by lens."""
        left: dict[CropEncoder | None, int] = defaultdict(int)
        for flight in self._flights:
            left[flight.begun.encoder] += flight.left
        return left

    def _see(self) -> None:
        """One batch, first come, first served."""
        left = self._left()
        if not left:
            return
        lens = next((lens for lens, many in left.items() if many >= self._crops), next(iter(left)))
        room, batch = self._at_once, []
        for flight in self._flights:
            if flight.begun.encoder == lens and room:
                batch.append((flight, min(room, flight.left)))
                room -= batch[-1][1]
        self._look(batch)

    @property
    def _at_once(self) -> int:
        return max(1, self._crops // _SMALLER) if self._alone else self._crops

    def _look(self, batch: list[tuple[RunningImage[R], int]]) -> None:
        lens, counts = batch[0][0].begun.encoder, [many for _, many in batch]
        assert lens is not None, "who wants crops to be seen has a lens"  # noqa: S101
        start = self._now()
        try:
            crops = torch.cat([flight.crops[flight.seen : flight.seen + many] for flight, many in batch])
            embeddings = lens.encode(crops, at_once=self._at_once, padded=self._images > 1)
        except Exception as error:  # noqa: BLE001 - neighbours go on
            failed = error
        else:
            self.slots.g_batches += 1
            self.slots.g_crops += sum(counts)
            self._answer(batch, torch.split(embeddings, counts), (self._now() - start) / sum(counts))
            return
        if isinstance(failed, _SHORT):
            self._preempt(failed)
        elif len(batch) == 1:
            flight = batch[0][0]
            self._flights.remove(flight)
            flight.begun.steps.close()  # the error's traceback would keep what it holds
            self._end(flight.waited, failed)
        else:
            for one in batch:
                if one[0] in self._flights:
                    self._look([one])

    def _answer(
        self, batch: list[tuple[RunningImage[R], int]], parts: Sequence[Float[Tensor, "_ d"]], seconds: float
    ) -> None:
        for (flight, many), part in zip(batch, parts, strict=True):
            flight.parts.append(part)
            if self._clock:
                flight.begun.times["classifier_ms"] += seconds * many * 1000
        for flight, _ in batch:
            if flight in self._flights and not flight.left:
                self._flights.remove(flight)
                self._advance(flight, torch.cat(flight.parts))

    def _end(self, one: WaitingRequest, found: R | Exception | None) -> None:
        self._rested.append((one.request.key, found))
        self._alone = None if one is self._alone else self._alone
        self._calm += 1
        if self._calm >= self._most:
            self._calm, self._limit = 0, min(self._most, 2 * self._limit)

    def _preempt(self, error: Exception, grounded: Sequence[WaitingRequest] = ()) -> None:
        """Memory ran out, with all that is in flight and `grounded`, which is not."""
        self.shortages += 1
        traceback.clear_frames(error.__traceback__)  # they hold on to what was being computed
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        by_age = sorted(self._flights, key=lambda flight: flight.number)
        held = [*(flight.waited for flight in by_age), *grounded]
        if len(held) > 1:
            self._limit, self._calm = len(held) // 2, 0
        kept = by_age[: self._limit] if len(held) > 1 else []
        for flight in by_age[len(kept) :]:
            flight.begun.steps.close()
        self._flights = [flight for flight in self._flights if flight in kept]
        if self._alone is held[0]:
            self._end(held[0], MemoryError(str(error)))
            return
        self._alone = held[0] if len(held) == 1 else None
        self._line.put_back(held[len(kept) :])

    def _now(self) -> float:
        return float(self._clock()) if self._clock else 0.0
