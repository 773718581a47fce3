"""The models on a worker's device, as the pipeline uses them."""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from car.model_cards import ModelCard
from car.options import CrfBackend, Precision
from car.recipe import Recipe
from car.weights_digest import weights_digest
from worker.errors import DeviceMissingError, WeightsMissingError
from worker.models import ModelPaths
from worker.models.weights import find_clip_folder, find_sam_folder, load_pair, load_sam, tokenizer_merges
from worker.segmenter.batch_scheduler import BatchScheduler
from worker.segmenter.postprocess import Clock, PendingSegmentation
from worker.segmenter.requests import SegmentRequest, StartedRequest
from worker.segmenter.sam.ensembling import FindRegions
from worker.segmenter.segmenter import Batches, Segmenter

_GPU_IMAGES = 32
"""Images in the model at a time on a GPU: they fill g's batches, and f finds images of equal size among them."""
_CPU_IMAGES = 4
"""A CPU computes images one by one; claiming several saves transactions."""

OnLoad = Callable[[tuple[str, str, str] | None, Mapping[str, str], Mapping[str, str], Mapping[str, ModelCard]], None]
"""Called with the names of f, g and SAM ("" if the recipe has none) as in recipes, or None if every recipe has the same
models, and with the weights' digests, the tokenizers' merges and the model cards by role.
"""


def load_model(
    models: ModelPaths | None,
    *,
    device: str = "auto",
    precision: Precision = Precision.AUTO,
    crf_backend: CrfBackend = CrfBackend.LATTICE,
    batch: int = 0,
    on_load: OnLoad | None = None,
) -> "ClipModel":
    """Load a worker's models: `models` for every recipe, or if that is None, those that each recipe names.

    `batch` is the number of images in the model at a time; 0 chooses it by device. `on_load` is called once per pair.

    Raises: WeightsError; DeviceMissingError, if `device` is cuda and there is none.
    """
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise DeviceMissingError("CAR_DEVICE is cuda, but torch finds no CUDA device; set it to auto or cpu")
    torch_device = torch.device("cuda" if has_cuda and device != "cpu" else "cpu")
    batches = Batches.for_device(torch_device)
    batch = batch or (_GPU_IMAGES if torch_device.type == "cuda" else _CPU_IMAGES)
    model = ClipModel(models, torch_device, batches, batch, on_load, precision, crf_backend)
    model.load(Recipe())
    return model


@dataclass
class ClipModel:
    """Pairs of CLIPs on one device, each loaded when a recipe first uses it; likewise SAMs for recipes with sam=on.

    Its scheduler is for one thread.
    """

    models: ModelPaths | None
    torch_device: torch.device
    batches: Batches
    batch: int
    on_load: OnLoad | None = field(default=None, repr=False)
    precision: Precision = Precision.AUTO
    crf_backend: CrfBackend = CrfBackend.LATTICE
    _segmenters: dict[ModelPaths, Segmenter] = field(default_factory=dict, repr=False)
    _sams: dict[str | Path, FindRegions] = field(default_factory=dict, repr=False)

    @property
    def device(self) -> str:
        return torch.cuda.get_device_name(self.torch_device) if self.torch_device.type == "cuda" else "cpu"

    @property
    def weights(self) -> Mapping[str, str]:
        return self.weights_for(Recipe())

    def weights_for(self, recipe: Recipe) -> Mapping[str, str]:
        """Return the digests of the recipe's weights by role. Raises: WeightsMissingError."""
        paths = self._paths(recipe)
        folders = {"proposal": find_clip_folder(paths.proposal), "classifier": find_clip_folder(paths.classifier)}
        if recipe.sam:
            folders["sam"] = find_sam_folder(_sam_path(paths))
        return {role: weights_digest(folder) for role, folder in folders.items()}

    def load(self, recipe: Recipe) -> Segmenter:
        """Return the recipe's segmenter, with its models on the device."""
        paths = self._paths(recipe)
        if paths not in self._segmenters:
            self._segmenters[paths] = self._make_segmenter(paths, recipe)
        segmenter = self._segmenters[paths]
        if recipe.sam and segmenter.sam is None:
            sam_path = _sam_path(paths)
            if sam_path not in self._sams:
                self._sams[sam_path] = load_sam(sam_path, device=self.torch_device)
            segmenter.sam = self._sams[sam_path]
            self._report_load(recipe, segmenter)
        return segmenter

    def _make_segmenter(self, paths: ModelPaths, recipe: Recipe) -> Segmenter:
        """Recipes that differ in their SAM share one pair of CLIPs."""
        for loaded_paths, segmenter in self._segmenters.items():
            if loaded_paths[:2] == paths[:2]:
                return replace(segmenter, sam=None)
        pair = load_pair(paths.proposal, paths.classifier, device=self.torch_device, precision=self.precision)
        clock = _clock(self.torch_device)
        segmenter = Segmenter(pair.proposal, pair.classifier, self.batches, clock, crf_backend=self.crf_backend)
        self._report_load(replace(recipe, sam=False), segmenter)
        return segmenter

    def _report_load(self, recipe: Recipe, segmenter: Segmenter) -> None:
        if self.on_load is not None:
            names = (recipe.proposal_model, recipe.classifier_model, recipe.sam_model if recipe.sam else "")
            encoders = {"proposal": segmenter.proposal, "classifier": segmenter.classifier}
            tokenizers = {role: tokenizer_merges(encoder) for role, encoder in encoders.items()}
            cards = self._paths(recipe).cards(sam=recipe.sam)
            self.on_load(None if self.models else names, self.weights_for(recipe), tokenizers, cards)

    def scheduler(self) -> BatchScheduler[PendingSegmentation]:
        """Return a scheduler for images of any recipe; those of one pair of CLIPs share its batches."""
        batches = self.batches
        return BatchScheduler(
            self, images=batches.images, crops=batches.crops, capacity=self.batch, clock=_clock(self.torch_device)
        )

    def kind(self, request: SegmentRequest) -> Hashable:
        return self._paths(request.recipe), Segmenter.kind(request)

    def begin(
        self, requests: Sequence[SegmentRequest], *, batch_size: int
    ) -> list[StartedRequest[PendingSegmentation]]:
        segmenters = [self.load(request.recipe) for request in requests]
        return segmenters[0].begin(requests, batch_size=batch_size)

    def _paths(self, recipe: Recipe) -> ModelPaths:
        return self.models or ModelPaths(recipe.proposal_model, recipe.classifier_model, recipe.sam_model)


def _clock(device: torch.device) -> Clock:
    """Return a clock that waits for the device's kernels, which CUDA runs asynchronously."""
    if device.type != "cuda":
        return time.perf_counter

    def now() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


def _sam_path(paths: ModelPaths) -> str | Path:
    if paths.sam is None:
        raise WeightsMissingError("the recipe has sam=on, but the models folder has no SAM; add one to it as sam/")
    return paths.sam
