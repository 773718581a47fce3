"""A segmenter that computes nothing and an object store in memory, to measure everything else."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from io import BytesIO

import numpy as np
from PIL import Image

from car.object_store import ObjectInfo
from car.recipe import Recipe
from car.rle import encode_coco
from car.segmentation import Mask, QueryScore, Segmentation, Step, StopReason
from db.errors import ObjectMissingError
from worker.pipeline.types import FetchedItem

SIZE = (48, 32)
"""Width and height of the images."""
LABELS = ("red circle", "blue square", "green star", "yellow cross")
_SURVIVORS = 2


class FakeSegmenter:
    """A model and its scheduler: completes every image one step after it was added, with the same masks and history."""

    weights: Mapping[str, str] = {"proposal": "0" * 64, "classifier": "1" * 64}
    device = "none"
    shortages = 0

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self._result = fake_segmentation()
        self._running: list[FetchedItem] = []

    def weights_for(self, _: Recipe) -> Mapping[str, str]:
        return self.weights

    def scheduler(self) -> "FakeSegmenter":
        return self

    def __len__(self) -> int:
        return len(self._running)

    @property
    def room(self) -> int:
        return self.batch - len(self._running)

    def add_request(self, key: FetchedItem, *_: object, **__: object) -> None:
        self._running.append(key)

    def step(self) -> list[tuple[FetchedItem, Segmentation]]:
        done, self._running = self._running, []
        return [(key, self._result) for key in done]


class FakePostprocess:
    """Returns its input."""

    def submit(self, pending: Segmentation) -> Future[Segmentation]:
        done: Future[Segmentation] = Future()
        done.set_result(pending)
        return done


class MemoryObjects:
    """An object store in this process, with the methods that the pipeline uses."""

    bucket = "memory"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def put(self, name: str, data: bytes, content_type: str) -> str:
        del content_type
        self.objects[name] = data
        return name

    def read(self, bucket: str, key: str, *, max_bytes: int | None = None) -> bytes:
        del bucket, max_bytes
        if key not in self.objects:
            raise ObjectMissingError(f"there is no object {key!r}")
        return self.objects[key]

    def head(self, bucket: str, key: str) -> ObjectInfo:
        return ObjectInfo(key, "", len(self.read(bucket, key)))


def fake_segmentation() -> Segmentation:
    """Return the result of every image: 4 queries, of which step 2 keeps 2, and two masks."""
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
    steps = (Step(1, first), Step(2, tuple(replace(query, iou_previous=1.0) for query in first[:_SURVIVORS])))
    timings = {"proposal_ms": 1.0, "classifier_ms": 1.0, "crf_ms": 1.0}
    return Segmentation(width, height, masks, steps, StopReason.UNCHANGED, timings)


def small_png(number: int) -> bytes:
    """Return a small PNG, different for each number."""
    seed = np.frombuffer(hashlib.sha256(str(number).encode()).digest(), np.uint32)
    pixels = np.random.default_rng(seed).integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(pixels).save(out, format="PNG", compress_level=1)
    return out.getvalue()
