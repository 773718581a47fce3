"""The pair of CLIPs on its device, as the pipeline uses it."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from car.recipe import Recipe
from car.vocabulary import Vocabulary
from worker.errors import OutOfMemory
from worker.images import Picture
from worker.segmenter.finishing import Unfinished
from worker.segmenter.segmenter import Segmenter


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
