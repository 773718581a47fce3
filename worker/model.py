"""The pair of CLIPs on its device, as the pipeline uses it."""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from car.crf_by import CrfBy
from car.recipe import Recipe
from car.vocabulary import Vocabulary
from car.weights_digest import weights_digest
from worker.errors import DeviceMissing, OutOfMemory, WeightsMissing
from worker.images import Picture
from worker.places import Places
from worker.segmenter.finishing import Unfinished
from worker.segmenter.proposals import padded_size
from worker.segmenter.segmenter import Batches, Segmenter
from worker.segmenter.sizes import shrunk_size
from worker.weights import folder_of, load_pair, load_sam, sam_folder_of

_AT_ONCE = 4
"""Pictures go through a CPU one by one all the same; together they cost fewer transactions."""


Loaded = Callable[[tuple[str, str, str] | None, Mapping[str, str]], None]
"""Told the names of f, g and SAM ("" where the recipe has none) as recipes give them, None for those of every recipe,
and the weights by role.
"""


def load_model(
    models: Places | None,
    *,
    device: str = "auto",
    batch: int = 0,
    crf_by: CrfBy = CrfBy.LATTICE,
    loaded: Loaded | None = None,
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
    model = ClipModel(models, where, batches, batch or max(batches.images, _AT_ONCE), loaded, crf_by=crf_by)
    model.load(Recipe())
    return model


@dataclass
class ClipModel:
    """Pairs of CLIPs on one device, each loaded when a recipe first asks for it, and with it the SAM when one with
    sam=on does. `begin` is for one thread.
    """

    models: Places | None
    where: torch.device
    batches: Batches
    batch: int
    loaded: Loaded | None = field(default=None, repr=False)
    crf_by: CrfBy = CrfBy.LATTICE
    _pairs: dict[Places, Segmenter] = field(default_factory=dict, repr=False)

    @property
    def device(self) -> str:
        return torch.cuda.get_device_name(self.where) if self.where.type == "cuda" else "cpu"

    @property
    def weights(self) -> Mapping[str, str]:
        return self.weights_for(Recipe())

    def weights_for(self, recipe: Recipe) -> Mapping[str, str]:
        """Raises: WeightsMissing, where a model of the recipe was never pulled, or there is no SAM for it."""
        places = self._places(recipe)
        folders = {"proposal": folder_of(places.proposal), "classifier": folder_of(places.classifier)}
        if recipe.sam:
            folders["sam"] = sam_folder_of(_sam_of(places))
        return {role: weights_digest(folder) for role, folder in folders.items()}

    def load(self, recipe: Recipe) -> Segmenter:
        """The recipe's models, on the device."""
        places = self._places(recipe)
        if places not in self._pairs:
            pair = load_pair(places.proposal, places.classifier, device=self.where)
            self._pairs[places] = Segmenter(
                pair.proposal, pair.classifier, self.batches, time.perf_counter, crf_by=self.crf_by
            )
            self._tell(replace(recipe, sam=False))
        segmenter = self._pairs[places]
        if recipe.sam and segmenter.sam is None:
            segmenter.sam = load_sam(_sam_of(places), device=self.where)
            self._tell(recipe)
        return segmenter

    def _tell(self, recipe: Recipe) -> None:
        if self.loaded is not None:
            names = (recipe.proposal_model, recipe.classifier_model, recipe.sam_model if recipe.sam else "")
            self.loaded(None if self.models else names, self.weights_for(recipe))

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
        return self.models or Places(recipe.proposal_model, recipe.classifier_model, recipe.sam_model)


def _sam_of(places: Places) -> str | Path:
    if places.sam is None:
        raise WeightsMissing("sam=on, and there is no SAM beside the models here: put one into their folder as sam/")
    return places.sam
