"""The pair of CLIPs on its device, as the pipeline uses it."""

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from car.recipe import Recipe
from car.vocabulary import Vocabulary
from worker.errors import DeviceMissing, OutOfMemory
from worker.images import Picture
from worker.segmenter.finishing import Unfinished
from worker.segmenter.segmenter import Batches, Segmenter
from worker.weights import load_pair

_AT_ONCE = 4
"""Pictures go through a CPU one by one all the same; together they cost fewer transactions."""


def load_model(proposal: str | Path, classifier: str | Path, *, device: str = "auto", batch: int = 0) -> "ClipModel":
    """The models of a worker process. `batch` 0: as many pictures at once as suit the device.

    Raises:
        WeightsMissing: see worker.weights.
        WeightsInvalid: see worker.weights.
        DeviceMissing: CUDA was asked for and there is none.

    """
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise DeviceMissing("CAR_DEVICE is cuda, and torch finds no CUDA device here; set it to auto or cpu")
    where = torch.device("cuda" if cuda and device != "cpu" else "cpu")
    pair = load_pair(proposal, classifier, device=where)
    batches = Batches.suited_to(where)
    segmenter = Segmenter(pair.proposal, pair.classifier, batches, time.perf_counter)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu"
    return ClipModel(segmenter, pair.digests, name, batch or max(batches.images, _AT_ONCE))


@dataclass
class ClipModel:
    """Used by one thread: the device's."""

    segmenter: Segmenter
    weights: Mapping[str, str]
    device: str
    batch: int

    def bucket(self, picture: Picture, recipe: Recipe) -> Hashable:
        return self.segmenter.padded_size(picture.height, picture.width, recipe)

    def begin(self, images: Sequence[NDArray[np.uint8]], vocabulary: Vocabulary, recipe: Recipe) -> list[Unfinished]:
        try:
            return self.segmenter.recur(images, vocabulary, recipe)
        except (torch.OutOfMemoryError, MemoryError) as error:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            raise OutOfMemory(f"{len(images)} pictures at once need more memory than {self.device} has") from error
