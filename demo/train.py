"""Train the embedded default models on the CPU, in an hour or so:

    python -m demo.train --stage trunk                              # colours and shapes, for both
    python -m demo.train --stage proposal --start out/trunk &       # these two side by side,
    python -m demo.train --stage classifier --start out/trunk       # one core each
    python -m demo.train --stage rehearsal --start demo/weights/classifier
    python -m demo.train --stage sam                                # independent of the others
    python -m demo.train --stage sam --start demo/weights/sam --steps 3450 --rate 5e-4 --checkpoints out/more

The first writes to `--checkpoints`, the others to demo/weights. A stopped run resumes from its checkpoint.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from segment_anything.modeling import Sam
from torch import Tensor, nn
from transformers import CLIPModel

from demo.classifier_finetuning import FinetuningStage
from demo.classifier_training import ClassifierStage
from demo.clip_models import WEIGHTS, save_model
from demo.proposal_training import ProposalStage
from demo.sam_training import SamStage, load_sam, save_sam
from demo.scenes import Split, generator
from demo.trunk_training import TrunkStage


class Stage(Protocol):
    """One model and its loss."""

    model: CLIPModel | Sam

    def modules(self) -> nn.ModuleList:
        """Return the model and the auxiliary heads that are trained with it."""

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the loss on new scenes, and its named parts."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    steps: int
    rate: float
    """Largest learning rate."""
    warmup: int = 100
    decay: float = 0.02
    report_every: int = 100
    save_every: int = 250


STAGES: Final[dict[str, tuple[Callable[[Path], Stage], TrainingConfig]]] = {
    "trunk": (TrunkStage, TrainingConfig(steps=4000, rate=1.3e-3)),
    "proposal": (ProposalStage, TrainingConfig(steps=2400, rate=8e-4)),
    "classifier": (ClassifierStage, TrainingConfig(steps=1800, rate=6e-4)),
    "rehearsal": (FinetuningStage, TrainingConfig(steps=1500, rate=5e-4)),
    "sam": (SamStage, TrainingConfig(steps=6000, rate=1.2e-3, report_every=20, save_every=50)),
}
"""About the settings of the shipped weights; demo/MODEL_CARD.md describes their training."""


def learning_rate(schedule: TrainingConfig, step: int) -> float:
    """Return the rate of a linear warm-up, then of half a cosine down to a fiftieth."""
    if step < schedule.warmup:
        return schedule.rate * (step + 1) / schedule.warmup
    done = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
    return schedule.rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def train(stage: Stage, schedule: TrainingConfig, checkpoint: Path, folder: Path) -> None:
    """Run `stage` to the end of `schedule`, and write the model to `folder` at every checkpoint."""
    modules = stage.modules()
    optimizer = torch.optim.AdamW(
        modules.parameters(), lr=schedule.rate, weight_decay=schedule.decay, betas=(0.9, 0.98), fused=True
    )
    first = resume(checkpoint, modules, optimizer)
    started, sums = time.monotonic(), dict[str, float]()
    for step in range(first, schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(schedule, step)
        # Each step has its own random stream, so a resumed run draws the same scenes.
        loss, parts = stage.loss(generator(Split.TRAIN, step))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()
        if isinstance(stage.model, CLIPModel):
            with torch.no_grad():
                stage.model.logit_scale.clamp_(max=math.log(100))  # CLIP's own bound
        sums = {name: sums.get(name, 0.0) + value for name, value in parts.items()}
        if (step + 1) % schedule.report_every == 0:
            report(step + 1, schedule, first, started, sums)
            sums = {}
        if (step + 1) % schedule.save_every == 0 or step + 1 == schedule.steps:
            save(checkpoint, modules, optimizer, step + 1)
            write(stage.model, folder)


def write(model: CLIPModel | Sam, folder: Path) -> None:
    if isinstance(model, Sam):
        save_sam(model, folder)
    else:
        save_model(model, folder)


def read(model: CLIPModel | Sam, folder: Path) -> None:
    """Copy the weights of a trained model of the same size."""
    if isinstance(model, Sam):
        model.load_state_dict(load_sam(folder))
    else:
        model.load_state_dict(CLIPModel.from_pretrained(folder).float().state_dict())


def report(step: int, schedule: TrainingConfig, first: int, started: float, sums: dict[str, float]) -> None:
    """Print losses, rate and remaining time."""
    rate = (step - first) / (time.monotonic() - started)
    losses = "  ".join(f"{name} {total / schedule.report_every:.3f}" for name, total in sums.items())
    minutes = (schedule.steps - step) / rate / 60
    print(f"step {step}/{schedule.steps}  {losses}  {rate:.2f} steps/s  {minutes:.0f} min left", flush=True)  # noqa: T201


def save(checkpoint: Path, modules: nn.ModuleList, optimizer: torch.optim.Optimizer, step: int) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": tensor for name, tensor in modules.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
    fresh = checkpoint.with_suffix(".new")
    save_file(tensors | {"step": torch.tensor(step)}, fresh)
    fresh.replace(checkpoint)


def resume(checkpoint: Path, modules: nn.ModuleList, optimizer: torch.optim.Optimizer) -> int:
    """Load `checkpoint` if there is one; return the next step."""
    if not checkpoint.exists():
        return 0
    tensors = load_file(checkpoint)
    modules.load_state_dict({key.removeprefix("model."): t for key, t in tensors.items() if key.startswith("model.")})
    states: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            states.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(tensors["step"])


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = folder_of(options)
    make_stage, schedule = STAGES[options.stage]
    stage = make_stage(folder)
    if options.start:
        read(stage.model, options.start)
    schedule = replace(schedule, steps=options.steps or schedule.steps, rate=options.rate or schedule.rate)
    train(stage, schedule, options.checkpoints / f"{options.stage}.safetensors", folder)


def folder_of(options: argparse.Namespace) -> Path:
    """Return the folder to which a stage writes its model."""
    parent: Path = options.checkpoints if options.stage == "trunk" else options.weights
    return parent / ("classifier" if options.stage == "rehearsal" else options.stage)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=STAGES, required=True)
    parser.add_argument("--start", type=Path, help="folder of a trained model of the same size to start from")
    parser.add_argument("--steps", type=int, help="instead of the stage's own")
    parser.add_argument("--rate", type=float, help="largest learning rate, instead of the stage's own")
    parser.add_argument("--checkpoints", type=Path, default=Path("out"))
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
