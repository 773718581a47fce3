"""The pair of CLIPs on its device, as the pipeline uses it."""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from car.options import CrfBackend, Precision
from car.recipe import Recipe
from car.weights_digest import weights_digest
from worker.errors import DeviceMissingError, WeightsMissingError
from worker.models.model_paths import ModelPaths
from worker.models.weights import folder_of, load_pair, load_sam, sam_folder_of
from worker.segmenter.batch_scheduler import BatchScheduler
from worker.segmenter.postprocess import Clock, PendingSegmentation
from worker.segmenter.requests import SegmentRequest, StartedRequest
from worker.segmenter.sam.ensembling import FindRegions
from worker.segmenter.segmenter import Batches, Segmenter

_HELD = 32
"""Pictures that a GPU has under way: as many as fill g's batches, and some more, among which f finds some of a size."""
_CLAIMED = 4
"""Pictures go through a CPU one by one; together they cost fewer transactions."""


Loaded = Callable[[tuple[str, str, str] | None, Mapping[str, str]], None]
"""Told the names of f, g and SAM ("" where the recipe has none) as recipes give them, None for those of every recipe,
and the weights by role.
"""


def load_model(
    models: ModelPaths | None,
    *,
    device: str = "auto",
    precision: Precision = Precision.AUTO,
    crf_by: CrfBackend = CrfBackend.LATTICE,
    batch: int = 0,
    loaded: Loaded | None = None,
) -> "ClipModel":
    """The models of a worker process: one pair for every recipe, or, where that is None, the pair each recipe names.
    `batch` 0: as many pictures under way as suit the device. `loaded` is called for each pair, once.

    Raises:
        WeightsMissing: see worker.models.weights.
        WeightsInvalid: see worker.models.weights.
        DeviceMissing: CUDA was asked for and there is none.

    """
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise DeviceMissingError("CAR_DEVICE is cuda, and torch finds no CUDA device here; set it to auto or cpu")
    where = torch.device("cuda" if cuda and device != "cpu" else "cpu")
    batches = Batches.suited_to(where)
    most = batch or (_HELD if where.type == "cuda" else _CLAIMED)
    model = ClipModel(models, where, batches, most, loaded, precision, crf_by)
    model.load(Recipe())
    return model


@dataclass
class ClipModel:
    """Pairs of CLIPs on one device, each loaded when a recipe first asks for it, and with it the SAM when one with
    sam=on does. Its flow is for one thread.
    """

    models: ModelPaths | None
    paths: torch.device
    batches: Batches
    batch: int
    loaded: Loaded | None = field(default=None, repr=False)
    precision: Precision = Precision.AUTO
    crf_by: CrfBackend = CrfBackend.LATTICE
    _pairs: dict[ModelPaths, Segmenter] = field(default_factory=dict, repr=False)
    _sams: dict[str | Path, FindRegions] = field(default_factory=dict, repr=False)

    @property
    def device(self) -> str:
        return torch.cuda.get_device_name(self.paths) if self.paths.type == "cuda" else "cpu"

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
            self._pairs[places] = self._segmenter(places, recipe)
        segmenter = self._pairs[places]
        if recipe.sam and segmenter.sam is None:
            place = _sam_of(places)
            if place not in self._sams:
                self._sams[place] = load_sam(place, device=self.paths)
            segmenter.sam = self._sams[place]
            self._tell(recipe)
        return segmenter

    def _segmenter(self, places: ModelPaths, recipe: Recipe) -> Segmenter:
        """A pair of CLIPs is on the device once, whatever SAMs recipes name beside it."""
        for known, segmenter in self._pairs.items():
            if known[:2] == places[:2]:
                return replace(segmenter, sam=None)
        pair = load_pair(places.proposal, places.classifier, device=self.paths, precision=self.precision)
        self._tell(replace(recipe, sam=False))
        clock = _clock_of(self.paths)
        return Segmenter(pair.proposal, pair.classifier, self.batches, clock, crf_by=self.crf_by)

    def _tell(self, recipe: Recipe) -> None:
        if self.loaded is not None:
            names = (recipe.proposal_model, recipe.classifier_model, recipe.sam_model if recipe.sam else "")
            self.loaded(None if self.models else names, self.weights_for(recipe))

    def scheduler(self) -> BatchScheduler[PendingSegmentation]:
        """Of pictures of all recipes: those of one pair of CLIPs share its batches."""
        batches = self.batches
        return BatchScheduler(
            self, images=batches.images, crops=batches.crops, most=self.batch, clock=_clock_of(self.paths)
        )

    def kind(self, ask: SegmentRequest) -> Hashable:
        return self._places(ask.recipe), Segmenter.kind(ask)

    def begin(self, asks: Sequence[SegmentRequest], *, at_once: int) -> list[StartedRequest[PendingSegmentation]]:
        pairs = [self.load(ask.recipe) for ask in asks]
        return pairs[0].begin(asks, at_once=at_once)

    def _places(self, recipe: Recipe) -> ModelPaths:
        return self.models or ModelPaths(recipe.proposal_model, recipe.classifier_model, recipe.sam_model)


def _clock_of(where: torch.device) -> Clock:
    """Of what was computed and not only begun: a CUDA device works on behind the back of a clock that does not wait."""
    if where.type != "cuda":
        return time.perf_counter

    def now() -> float:
        torch.cuda.synchronize(where)
        return time.perf_counter()

    return now


def _sam_of(places: ModelPaths) -> str | Path:
    if places.sam is None:
        raise WeightsMissingError(
            "sam=on, and there is no SAM beside the models here: put one into their folder as sam/"
        )
    return places.sam
