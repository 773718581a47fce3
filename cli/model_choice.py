"""Which CLIPs a command asks for, and where they are."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from car.recipe import Recipe
from cli.errors import WrongUse
from cli.options import Device

if TYPE_CHECKING:
    import torch

    from worker.weights import ClipPair

DEMO = "demo"
OPENAI = "openai"


@dataclass(frozen=True)
class ModelChoice:
    """What --models, --proposal-model and --classifier-model say together."""

    models: str
    proposal: str | None = None
    classifier: str | None = None

    @property
    def is_demo(self) -> bool:
        return self.models == DEMO and self.proposal is None and self.classifier is None

    @property
    def default_preset(self) -> str:
        return "demo" if self.is_demo else "voc"

    def places(self, recipe: Recipe) -> tuple[str | Path, str | Path]:
        """Folders or hub ids of f and g."""
        if self.proposal is not None and self.classifier is not None:
            return self.proposal, self.classifier
        proposal, classifier = self._pair(recipe)
        return self.proposal or proposal, self.classifier or classifier

    def _pair(self, recipe: Recipe) -> tuple[str | Path, str | Path]:
        if self.models == OPENAI:
            return recipe.proposal_model, recipe.classifier_model
        folder = demo_folder() / "weights" if self.models == DEMO else Path(self.models)
        if not folder.is_dir():
            raise WrongUse(f"--models {self.models}: there is no folder {folder}; give {DEMO}, {OPENAI} or a folder")
        for role in ("proposal", "classifier"):
            if not (folder / role).is_dir():
                raise WrongUse(f"--models {self.models}: {folder} holds no {role}/ folder with a CLIP model")
        return folder / "proposal", folder / "classifier"


def demo_folder() -> Path:
    """Where the embedded models, their labels and their pictures are."""
    return Path(str(resources.files("demo")))


def load(choice: ModelChoice, recipe: Recipe, device: Device) -> "ClipPair":
    """Both CLIPs on the device, ready to encode."""
    places = choice.places(recipe)
    from worker.weights import load_pair

    return load_pair(*places, device=torch_device(device))


def torch_device(device: Device) -> "torch.device":
    """The device by name; auto is CUDA where there is one."""
    import torch

    there_is_cuda = torch.cuda.is_available()
    if device is Device.CUDA and not there_is_cuda:
        raise WrongUse("--device cuda: torch finds no CUDA device here; use --device cpu")
    return torch.device("cuda" if there_is_cuda and device is not Device.CPU else "cpu")
