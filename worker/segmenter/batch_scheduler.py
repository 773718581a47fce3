"""Continuous batching: running images share the batches of f and g, and an image that ends makes room at once.

The policy, most expensive resource first:

* g's batches are full as long as there are images: a batch takes crops of the images that have waited longest for g. An
  image whose crops are all encoded goes on while others still wait for theirs.
* Images are started when g has no full batch left, and no earlier: memory grows with the number of running images.
* f takes images of the most frequent padded size. It rather runs a partly filled batch than leave g one, because its
  batch costs a small part of g's. A size that was passed over too often goes first.
* g runs a partly filled batch only when no image is left to start.

Every batch has the same shape whatever is in it, so a result does not depend on the other images in it. With `images`
1, as on a CPU, one image runs at a time, nothing is padded, and results are reproducible to the last bit.

Failures are isolated: a batch that fails is retried image by image, so that only the image with the error fails. When
memory runs out, the younger half of the running images is preempted and restarted later, the others continue, and fewer
run at a time for a while. An image that does not fit alone is retried with the smallest batches, then fails.
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
"""A request's key and its outcome: the result, the error that ended it, or None if it was no longer wanted."""

_SOLO_DIVISOR = 8
"""g's batch is divided by it for an image that needs more memory than there is although it runs alone."""
_OUT_OF_MEMORY = (torch.OutOfMemoryError, MemoryError)


@dataclass
class BatchStats:
    """Counts of batches and of what was in them."""

    f_batches: int = 0
    f_images: int = 0
    g_batches: int = 0
    g_crops: int = 0


@dataclass(eq=False)
class RunningImage(Generic[R]):
    """A started image that waits for the embeddings of `crops`."""

    waiting: WaitingRequest
    started: StartedRequest[R]
    age: int
    """Counts starts: the lower, the older."""
    crops: Crops = field(default_factory=lambda: torch.zeros(0, 0, 0, 3, dtype=torch.uint8))
    embeddings: list[Float[Tensor, "_ d"]] = field(default_factory=list)
    """Those of the first of `crops`."""

    @property
    def encoded(self) -> int:
        return sum(map(len, self.embeddings))

    @property
    def remaining(self) -> int:
        return len(self.crops) - self.encoded


class BatchScheduler(Generic[R]):
    """Schedules images over f and g, for one thread, which adds requests while there is `room` and calls `step`."""

    def __init__(
        self, model: ImageModel[R], *, images: int, crops: int, capacity: int = 0, clock: Clock | None = None
    ) -> None:
        """`images` and `crops` are the batch sizes of f and g.

        `capacity` limits the requests that are held; the more of them wait, the more share a size. 0: images + crops.
        """
        self._model, self._images, self._crops, self._clock = model, images, crops, clock
        self._capacity = 1 if images == 1 else capacity or images + crops
        self._limit = self._capacity
        """Running images; lowered after memory ran out."""
        self._completed_since_shortage = 0
        self._solo: WaitingRequest | None = None
        """Needs the smallest batches and runs alone."""
        self._waiting = WaitingQueue()
        self._running: list[RunningImage[R]] = []
        """The image that has waited longest for g first."""
        self._ages = count()
        self._completed: list[Completed[R]] = []
        self.stats = BatchStats()
        self.shortages = 0
        """Times that memory ran out."""

    def __len__(self) -> int:
        """Return the number of requests that were added and not yet returned."""
        return len(self._waiting) + len(self._running) + len(self._completed)

    @property
    def room(self) -> int:
        """The number of further requests that it can use now."""
        return max(0, self._capacity - len(self))

    def add_request(
        self,
        key: Any,  # noqa: ANN401 - the caller's, returned with the outcome
        image: Image,
        vocabulary: Vocabulary,
        recipe: Recipe,
        *,
        still_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Add an image; `still_wanted` is called just before it is started."""
        self._add(SegmentRequest(key, image, vocabulary, recipe, still_wanted=still_wanted))

    def run(self, requests: Iterable[SegmentRequest]) -> Iterator[Completed[R]]:
        """Yield the outcome of every request as soon as it is there."""
        source = iter(requests)
        while True:
            for request in islice(source, self.room):
                self._add(request)
            if not len(self):
                return
            yield from self.step()

    def step(self) -> list[Completed[R]]:
        """Compute at most one batch of g, and return the outcomes since the last step."""
        while len(self._waiting) and not self._completed and not self._has_full_batch():
            batch_size, limit = (1, 1) if self._solo else (self._images, self._limit)
            if len(self._running) >= limit:
                break
            self._start(self._waiting.take(batch_size, limit=limit - len(self._running)))
        if not self._completed:
            self._encode_next_batch()
        completed, self._completed = self._completed, []
        return completed

    def _add(self, request: SegmentRequest) -> None:
        try:
            self._waiting.put(WaitingRequest(request, self._model.kind(request)))
        except Exception as error:  # noqa: BLE001 - it fails alone
            self._completed.append((request.key, error))

    # f

    def _start(self, requests_to_start: list[WaitingRequest]) -> None:
        batch = []
        for waiting in requests_to_start:
            if waiting.request.still_wanted():
                batch.append(waiting)
            else:
                self._complete(waiting, None)
        if not batch:
            return
        start = self._now()
        try:
            requests = [waiting.request for waiting in batch]
            started = self._model.begin(requests, batch_size=1 if self._solo else self._images)
        except Exception as error:  # noqa: BLE001 - the batch is retried image by image
            failure = error
        else:
            self.stats.f_batches += 1
            self.stats.f_images += len(batch)
            self._admit(batch, started, (self._now() - start) / len(batch))
            return
        if isinstance(failure, _OUT_OF_MEMORY):
            self._preempt(failure, batch)
        elif len(batch) == 1:
            self._complete(batch[0], failure)
        else:
            for waiting in batch:
                self._start([waiting])

    def _admit(self, batch: list[WaitingRequest], started: Sequence[StartedRequest[R]], seconds: float) -> None:
        for number, (waiting, request) in enumerate(zip(batch, started, strict=True)):
            if len(self._running) >= self._limit:  # memory has just run out
                self._waiting.put_back(batch[number:])
                return
            if self._clock:
                request.timings["encode_ms"] += seconds * 1000
            self._advance(RunningImage(waiting, request, next(self._ages)), None)

    def _advance(self, image: RunningImage[R], embeddings: Float[Tensor, "m d"] | None) -> None:
        """Run the recurrence until it yields crops or ends."""
        recurrence = image.started.recurrence
        try:
            image.crops, image.embeddings = next(recurrence) if embeddings is None else recurrence.send(embeddings), []
        except StopIteration as end:
            self._complete(image.waiting, end.value)
            return
        except Exception as error:  # noqa: BLE001 - it fails alone
            failure = error
        else:
            self._running.append(image)
            return
        if isinstance(failure, _OUT_OF_MEMORY):
            self._preempt(failure, [image.waiting])
        else:
            self._complete(image.waiting, failure)

    # g

    def _remaining(self) -> dict[CropEncoder | None, int]:
        """Return the number of crops to encode by encoder."""
        remaining: dict[CropEncoder | None, int] = defaultdict(int)
        for image in self._running:
            remaining[image.started.encoder] += image.remaining
        return remaining

    def _has_full_batch(self) -> bool:
        return max(self._remaining().values(), default=0) >= self._crops

    @property
    def _crop_batch_size(self) -> int:
        return max(1, self._crops // _SOLO_DIVISOR) if self._solo else self._crops

    def _encode_next_batch(self) -> None:
        """Encode one batch, first come, first served."""
        remaining = self._remaining()
        if not remaining:
            return
        full = (encoder for encoder, crops in remaining.items() if crops >= self._crops)
        encoder = next(full, next(iter(remaining)))
        room, batch = self._crop_batch_size, []
        for image in self._running:
            if image.started.encoder == encoder and room:
                batch.append((image, min(room, image.remaining)))
                room -= batch[-1][1]
        self._encode(batch)

    def _encode(self, batch: list[tuple[RunningImage[R], int]]) -> None:
        """Encode the next crops of each image, as many as its number says."""
        encoder, counts = batch[0][0].started.encoder, [crops for _, crops in batch]
        assert encoder is not None, "a recurrence that yields crops has an encoder"  # noqa: S101
        start = self._now()
        try:
            crops = torch.cat([image.crops[image.encoded : image.encoded + number] for image, number in batch])
            embeddings = encoder.encode(crops, batch_size=self._crop_batch_size, padded=self._images > 1)
        except Exception as error:  # noqa: BLE001 - the batch is retried image by image
            failure = error
        else:
            self.stats.g_batches += 1
            self.stats.g_crops += sum(counts)
            self._distribute(batch, torch.split(embeddings, counts), (self._now() - start) / sum(counts))
            return
        if isinstance(failure, _OUT_OF_MEMORY):
            self._preempt(failure)
        elif len(batch) == 1:
            image = batch[0][0]
            self._running.remove(image)
            image.started.recurrence.close()  # the error's traceback would keep its tensors
            self._complete(image.waiting, failure)
        else:
            for image, number in batch:
                if image in self._running:
                    self._encode([(image, number)])

    def _distribute(
        self, batch: list[tuple[RunningImage[R], int]], embeddings: Sequence[Float[Tensor, "_ d"]], seconds: float
    ) -> None:
        for (image, crops), encoded in zip(batch, embeddings, strict=True):
            image.embeddings.append(encoded)
            if self._clock:
                image.started.timings["classifier_ms"] += seconds * crops * 1000
        for image, _ in batch:
            if image in self._running and not image.remaining:
                self._running.remove(image)
                self._advance(image, torch.cat(image.embeddings))

    # Outcomes

    def _complete(self, waiting: WaitingRequest, outcome: R | Exception | None) -> None:
        self._completed.append((waiting.request.key, outcome))
        self._solo = None if waiting is self._solo else self._solo
        self._completed_since_shortage += 1
        if self._completed_since_shortage >= self._capacity:
            self._completed_since_shortage, self._limit = 0, min(self._capacity, 2 * self._limit)

    def _preempt(self, error: Exception, starting: Sequence[WaitingRequest] = ()) -> None:
        """Free memory after it ran out: preempt the younger half of the running images and of those `starting`."""
        self.shortages += 1
        traceback.clear_frames(error.__traceback__)  # they hold on to what was being computed
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        by_age = sorted(self._running, key=lambda image: image.age)
        held = [*(image.waiting for image in by_age), *starting]
        if len(held) > 1:
            self._limit, self._completed_since_shortage = len(held) // 2, 0
        retained = by_age[: self._limit] if len(held) > 1 else []
        for image in by_age[len(retained) :]:
            image.started.recurrence.close()
        self._running = [image for image in self._running if image in retained]
        if self._solo is held[0]:
            self._complete(held[0], MemoryError(str(error)))
            return
        self._solo = held[0] if len(held) == 1 else None
        self._waiting.put_back(held[len(retained) :])

    def _now(self) -> float:
        return float(self._clock()) if self._clock else 0.0
