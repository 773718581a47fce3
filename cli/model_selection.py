"""Which models a command asks for, and how they are loaded."""

from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from car.options import Precision
from car.presets import apply_settings
from car.recipe import Recipe
from cli.errors import UsageError
from cli.options import NO_SAM, Device, parse_settings

if TYPE_CHECKING:
    import torch

    from car.model_cards import ModelCard
    from worker.models import ModelPaths
    from worker.models.weights import ClipPair
    from worker.segmenter.sam.automatic_masks import AutomaticMasks

DEMO = "demo"
OPENAI = "openai"


@dataclass(frozen=True)
class ModelSelection:
    """The values of --models, --proposal-model, --classifier-model and --sam."""

    models: str
    proposal: str | None = None
    classifier: str | None = None
    sam: str | None = None
    """A folder or the name of a release; none: the SAM beside the models, or the recipe's."""

    @property
    def is_demo(self) -> bool:
        return self.models == DEMO and self.proposal is None and self.classifier is None

    @property
    def default_preset(self) -> str:
        return "demo" if self.is_demo else "voc"

    def recipe(self, preset_name: str | None, settings: list[str] | None) -> Recipe:
        """Return the recipe of --preset, --set and --sam."""
        from car.presets import preset

        parsed = parse_settings(settings)
        recipe = apply_settings(preset(preset_name or self.default_preset), parsed)
        if self.sam is None:
            return recipe
        with_sam = self.sam != NO_SAM
        if "sam" in parsed and recipe.sam is not with_sam:
            raise UsageError(f"--sam {self.sam} and --set sam={parsed['sam']} contradict each other; give one of them")
        return replace(recipe, sam=with_sam)

    def paths(self, recipe: Recipe) -> "ModelPaths":
        """Return where each model is.

        Raises:
            UsageError: --models is no folder of models.

        """
        from worker.models import ModelPaths

        proposal, classifier, sam = self.proposal, self.classifier, self.sam
        if self.models == OPENAI or (proposal and classifier):
            return ModelPaths(
                proposal or recipe.proposal_model, classifier or recipe.classifier_model, sam or recipe.sam_model
            )
        folder = demo_folder() / "weights" if self.models == DEMO else Path(self.models)
        if not folder.is_dir():
            raise UsageError(f"--models {self.models}: there is no folder {folder}; give {DEMO}, {OPENAI} or a folder")
        for role in ("proposal", "classifier"):
            if not (folder / role).is_dir():
                raise UsageError(f"--models {self.models}: {folder} has no {role}/ folder with a CLIP model")
        sam_folder = folder / "sam" if (folder / "sam").is_dir() else None
        return ModelPaths(proposal or folder / "proposal", classifier or folder / "classifier", sam or sam_folder)

    def cards(self, recipe: Recipe) -> "dict[str, ModelCard]":
        """Return the model card of each model that the recipe uses, by role."""
        return self.paths(recipe).cards(sam=recipe.sam)


def demo_folder() -> Path:
    """Return the folder of the embedded models, their labels and sample images."""
    return Path(str(resources.files("demo")))


def load(choice: ModelSelection, recipe: Recipe, device: Device, precision: Precision = Precision.AUTO) -> "ClipPair":
    """Load both CLIPs onto the device."""
    paths = choice.paths(recipe)  # before torch is imported: a wrong path is reported at once
    from worker.models.weights import load_pair

    return load_pair(paths.proposal, paths.classifier, device=_torch_device(device), precision=precision)


def load_sam(choice: ModelSelection, recipe: Recipe, device: Device) -> "tuple[AutomaticMasks | None, dict[str, str]]":
    """Load the SAM and its digest by role if the recipe has sam=on; otherwise return (None, {})."""
    if not recipe.sam:
        return None, {}
    path = choice.paths(recipe).sam
    if path is None:
        raise UsageError(f"sam=on, but --models {choice.models} has no sam/ folder; give --sam FOLDER")
    from car.weights_digest import weights_digest
    from worker.models.weights import find_sam_folder
    from worker.models.weights import load_sam as load_folder

    return load_folder(path, device=_torch_device(device)), {"sam": weights_digest(find_sam_folder(path))}


def _torch_device(device: Device) -> "torch.device":
    """Return the device by name; auto is CUDA if it is available."""
    import torch

    has_cuda = torch.cuda.is_available()
    if device is Device.CUDA and not has_cuda:
        raise UsageError("--device cuda: torch finds no CUDA device; use --device cpu")
    return torch.device("cuda" if has_cuda and device is not Device.CPU else "cpu")
