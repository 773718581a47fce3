"""A segmenter that computes nothing and an object store in memory, to measure everything else."""

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from car.recipe import Recipe
from car.rle import encode_coco
from car.segmentation import Mask, QueryScore, Segmentation, Step, StopReason
from car.vocabulary import Vocabulary
from db.errors import ObjectMissingError
from worker.pipeline.types import FetchedItem

SIZE = (48, 32)
"""Width and height of the images."""
LABELS = ("red circle", "blue square", "green star", "yellow cross")
_SURVIVORS = 2


class FakeSegmenter:
    """Returns the same two masks and the same history for every image: 4 queries, of which step 2 keeps 2."""

    weights: Mapping[str, str] = {"proposal": "0" * 64, "classifier": "1" * 64}

    def weights_for(self, _: Recipe) -> Mapping[str, str]:
        return self.weights

    device = "none"

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self._result = fake_segmentation()

    def scheduler(self) -> "FakeScheduler":
        return FakeScheduler(self._result, self.batch)


class FakeScheduler:
    """Completes every image one step after it was added."""

    shortages = 0

    def __init__(self, result: Segmentation, capacity: int) -> None:
        self._result, self._capacity = result, capacity
        self._running: list[FetchedItem] = []

    def __len__(self) -> int:
        return len(self._running)

    @property
    def room(self) -> int:
        return self._capacity - len(self._running)

    def add_request(
        self,
        key: FetchedItem,
        image: NDArray[np.uint8],
        vocabulary: Vocabulary,
        recipe: Recipe,
        *,
        still_wanted: Callable[[], bool],
    ) -> None:
        del image, vocabulary, recipe, still_wanted
        self._running.append(key)

    def step(self) -> list[tuple[FetchedItem, Segmentation]]:
        done, self._running = self._running, []
        return [(key, self._result) for key in done]


class FakePostprocess:
    """Returns its input."""

    def submit(self, unfinished: Segmentation) -> Future[Segmentation]:
        done: Future[Segmentation] = Future()
        done.set_result(unfinished)
        return done


class MemoryObjects:
    """An object store in this process, with the methods that the pipeline uses."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def put(self, name: str, data: bytes, content_type: str) -> str:
        del content_type
        self.objects[name] = data
        return name

    def read(self, bucket: str, key: str, *, max_bytes: int | None = None) -> bytes:
        del bucket, max_bytes
        try:
            return self.objects[key]
        except KeyError:
            raise ObjectMissingError(f"there is no object {key!r}") from None


def fake_segmentation() -> Segmentation:
    """The result of every image."""
    width, height = SIZE
    left = np.zeros((height, width), bool)
    left[:, : width // 2] = True
    area = int(left.sum())
    masks = (
        Mask(LABELS[0], 0.75, area, (0, 0, width // 2, height), encode_coco(left)),
        Mask(LABELS[1], 0.5, area, (width // 2, 0, width // 2, height), encode_coco(~left)),
    )
    first = tuple(
        QueryScore(label, f"a photo of a {label}.", 0.9 - 0.2 * position, kept=position < _SURVIVORS, area=area)
        for position, label in enumerate(LABELS)
    )
    second = tuple(QueryScore(one.label, one.text, one.score, kept=True, area=area, iou_previous=1.0) for one in first)
    steps = (Step(1, first), Step(2, second[:_SURVIVORS]))
    timings = {"proposal_ms": 1.0, "classifier_ms": 1.0, "crf_ms": 1.0}
    return Segmentation(width, height, masks, steps, StopReason.UNCHANGED, timings)


def small_png(number: int) -> bytes:
    """A small PNG, different for each number."""
    seed = np.frombuffer(hashlib.sha256(str(number).encode()).digest(), np.uint32)
    pixels = np.random.default_rng(seed).integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(pixels).save(out, format="PNG", compress_level=1)
    return out.getvalue()
