"""Which CLIPs a command asks for, and where they are."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from car.options import Precision
from car.recipe import Recipe
from cli.errors import UsageError
from cli.options import Device

if TYPE_CHECKING:
    import torch

    from worker.models.model_paths import ModelPaths
    from worker.models.weights import ClipPair
    from worker.segmenter.sam.automatic_masks import AutomaticMasks

DEMO = "demo"
OPENAI = "openai"


@dataclass(frozen=True)
class ModelSelection:
    """What --models, --proposal-model, --classifier-model and --sam say together."""

    models: str
    proposal: str | None = None
    classifier: str | None = None
    sam: str | None = None
    """A folder or the name of a release; none: the one beside the models, or that of the recipe."""

    @property
    def is_demo(self) -> bool:
        return self.models == DEMO and self.proposal is None and self.classifier is None

    @property
    def default_preset(self) -> str:
        return "demo" if self.is_demo else "voc"

    def paths(self, recipe: Recipe) -> "ModelPaths":
        from worker.models.model_paths import ModelPaths

        if self.proposal is not None and self.classifier is not None:
            return ModelPaths(self.proposal, self.classifier, self.sam or recipe.sam_model)
        found = self._found(recipe)
        return ModelPaths(self.proposal or found.proposal, self.classifier or found.classifier, self.sam or found.sam)

    def _found(self, recipe: Recipe) -> "ModelPaths":
        from worker.models.model_paths import ModelPaths

        if self.models == OPENAI:
            return ModelPaths(recipe.proposal_model, recipe.classifier_model, recipe.sam_model)
        folder = demo_folder() / "weights" if self.models == DEMO else Path(self.models)
        if not folder.is_dir():
            raise UsageError(f"--models {self.models}: there is no folder {folder}; give {DEMO}, {OPENAI} or a folder")
        for role in ("proposal", "classifier"):
            if not (folder / role).is_dir():
                raise UsageError(f"--models {self.models}: {folder} holds no {role}/ folder with a CLIP model")
        sam = folder / "sam"
        return ModelPaths(folder / "proposal", folder / "classifier", sam if sam.is_dir() else None)


def demo_folder() -> Path:
    """Where the embedded models, their labels and their pictures are."""
    return Path(str(resources.files("demo")))


def load(choice: ModelSelection, recipe: Recipe, device: Device, precision: Precision = Precision.AUTO) -> "ClipPair":
    """Both CLIPs on the device, ready to encode."""
    places = choice.paths(recipe)
    from worker.models.weights import load_pair

    return load_pair(places.proposal, places.classifier, device=torch_device(device), precision=precision)


def load_sam(choice: ModelSelection, recipe: Recipe, device: Device) -> "tuple[AutomaticMasks | None, dict[str, str]]":
    """The SAM and its digest under its role, where the recipe asks for one; else nothing, and nothing is imported."""
    if not recipe.sam:
        return None, {}
    place = choice.paths(recipe).sam
    if place is None:
        raise UsageError(f"sam=on, and --models {choice.models} holds no sam/ folder; give --sam FOLDER")
    from car.weights_digest import weights_digest
    from worker.models.weights import load_sam as load_folder
    from worker.models.weights import sam_folder_of

    return load_folder(place, device=torch_device(device)), {"sam": weights_digest(sam_folder_of(place))}


def torch_device(device: Device) -> "torch.device":
    """The device by name; auto is CUDA where there is one."""
    import torch

    there_is_cuda = torch.cuda.is_available()
    if device is Device.CUDA and not there_is_cuda:
        raise UsageError("--device cuda: torch finds no CUDA device here; use --device cpu")
    return torch.device("cuda" if there_is_cuda and device is not Device.CPU else "cpu")
