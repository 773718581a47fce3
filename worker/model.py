"""The pair of CLIPs on its device, as the pipeline uses it."""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from car.recipe import Recipe
from car.vocabulary import Vocabulary
from car.weights_digest import weights_digest
from worker.errors import DeviceMissing, OutOfMemory
from worker.images import Picture
from worker.segmenter.finishing import Unfinished
from worker.segmenter.proposals import padded_size
from worker.segmenter.segmenter import Batches, Segmenter
from worker.segmenter.sizes import shrunk_size
from worker.weights import folder_of, load_pair

_ROLES = ("proposal", "classifier")
_AT_ONCE = 4
"""Pictures go through a CPU one by one all the same; together they cost fewer transactions."""


Places = tuple[str | Path, str | Path]
"""Folders or hub ids of f and g."""


Loaded = Callable[[tuple[str, str] | None, Mapping[str, str]], None]
"""Told the names of f and g as recipes give them, None for those of every recipe, and the weights by role."""


def load_model(
    models: Places | None, *, device: str = "auto", batch: int = 0, loaded: Loaded | None = None
) -> "ClipModel":
    """The models of a worker process: one pair for every recipe, or, where that is None, the pair each recipe names.
    `batch` 0: as many pictures at once as suit the device. `loaded` is called for each pair, once.

    Raises:
        WeightsMissing: see worker.weights.
        WeightsInvalid: see worker.weights.
        DeviceMissing: CUDA was asked for and there is none.

    """
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise DeviceMissing("CAR_DEVICE is cuda, and torch finds no CUDA device here; set it to auto or cpu")
    where = torch.device("cuda" if cuda and device != "cpu" else "cpu")
    batches = Batches.suited_to(where)
    model = ClipModel(models, where, batches, batch or max(batches.images, _AT_ONCE), loaded)
    model.load(Recipe())
    return model


@dataclass
class ClipModel:
    """Pairs of CLIPs on one device, each loaded when a recipe first asks for it. `begin` is for one thread."""

    models: Places | None
    where: torch.device
    batches: Batches
    batch: int
    loaded: Loaded | None = field(default=None, repr=False)
    _pairs: dict[Places, Segmenter] = field(default_factory=dict, repr=False)

    @property
    def device(self) -> str:
        return torch.cuda.get_device_name(self.where) if self.where.type == "cuda" else "cpu"

    @property
    def weights(self) -> Mapping[str, str]:
        return self.weights_for(Recipe())

    def weights_for(self, recipe: Recipe) -> Mapping[str, str]:
        """Raises: WeightsMissing, where the recipe names a pair that was never pulled."""
        return {
            role: weights_digest(folder_of(place)) for role, place in zip(_ROLES, self._places(recipe), strict=True)
        }

    def load(self, recipe: Recipe) -> Segmenter:
        """The recipe's pair, on the device."""
        places = self._places(recipe)
        if places not in self._pairs:
            pair = load_pair(*places, device=self.where)
            self._pairs[places] = Segmenter(pair.proposal, pair.classifier, self.batches, time.perf_counter)
            if self.loaded is not None:
                names = None if self.models else (recipe.proposal_model, recipe.classifier_model)
                self.loaded(names, pair.digests)
        return self._pairs[places]

    def bucket(self, picture: Picture, recipe: Recipe) -> Hashable:
        return padded_size(*shrunk_size(picture.height, picture.width, recipe.max_side))

    def begin(self, images: Sequence[NDArray[np.uint8]], vocabulary: Vocabulary, recipe: Recipe) -> list[Unfinished]:
        try:
            return self.load(recipe).recur(images, vocabulary, recipe)
        except (torch.OutOfMemoryError, MemoryError) as error:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            raise OutOfMemory(f"{len(images)} pictures at once need more memory than {self.device} has") from error

    def _places(self, recipe: Recipe) -> Places:
        return self.models or (recipe.proposal_model, recipe.classifier_model)
