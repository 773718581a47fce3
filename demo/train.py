"""Train the embedded default models on the CPU, in an hour or so:

    python -m demo.train --stage trunk                              # colours and shapes, for both
    python -m demo.train --stage proposal --start out/trunk &       # these two side by side,
    python -m demo.train --stage classifier --start out/trunk       # one core each
    python -m demo.train --stage rehearsal --start demo/weights/classifier
    python -m demo.train --stage sam                                # by itself
    python -m demo.train --stage sam --start demo/weights/sam --steps 3450 --rate 5e-4 --checkpoints out/more   # and on

The first writes to `--checkpoints`, the others to demo/weights. A stopped run goes on from its checkpoint.
"""

import argparse
import math
import time
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
        """The model and whatever is trained beside it."""

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Loss on fresh scenes, and its named parts."""


STAGES: Final[dict[str, type[TrunkStage | ProposalStage | ClassifierStage | SamStage]]] = {
    "trunk": TrunkStage,
    "proposal": ProposalStage,
    "classifier": ClassifierStage,
    "rehearsal": FinetuningStage,
    "sam": SamStage,
}


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long and how fast."""

    steps: int
    rate: float
    """Greatest learning rate."""
    warmup: int = 100
    decay: float = 0.02
    report_every: int = 100
    save_every: int = 250


TRAINING_CONFIGS: Final = {
    "trunk": TrainingConfig(steps=4000, rate=1.3e-3),
    "proposal": TrainingConfig(steps=2400, rate=8e-4),
    "classifier": TrainingConfig(steps=1800, rate=6e-4),
    "rehearsal": TrainingConfig(steps=1500, rate=5e-4),
    "sam": TrainingConfig(steps=6000, rate=1.2e-3, report_every=20, save_every=50),
}
"""About what the shipped weights were trained with; demo/MODEL_CARD.md says how they came about."""


def learning_rate(plan: TrainingConfig, step: int) -> float:
    """Linear warm-up, then half a cosine down to a fiftieth."""
    if step < plan.warmup:
        return plan.rate * (step + 1) / plan.warmup
    done = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    return plan.rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def train(stage: Stage, plan: TrainingConfig, checkpoint: Path, folder: Path) -> None:
    """Run `stage` to the end of `plan`, writing the model to `folder` at every checkpoint."""
    modules = stage.modules()
    optimizer = torch.optim.AdamW(
        modules.parameters(), lr=plan.rate, weight_decay=plan.decay, betas=(0.9, 0.98), fused=True
    )
    first = resume(checkpoint, modules, optimizer)
    started, sums = time.monotonic(), dict[str, float]()
    for step in range(first, plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(plan, step)
        # A stream of its own for every step: a resumed run sees the scenes that an unbroken one would.
        loss, parts = stage.loss(generator(Split.TRAIN, step))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()
        bound(stage.model)
        sums = {name: sums.get(name, 0.0) + value for name, value in parts.items()}
        if (step + 1) % plan.report_every == 0:
            report(step + 1, plan, first, started, sums)
            sums = {}
        if (step + 1) % plan.save_every == 0 or step + 1 == plan.steps:
            save(checkpoint, modules, optimizer, step + 1)
            write(stage.model, folder)


@torch.no_grad()
def bound(model: CLIPModel | Sam) -> None:
    """CLIP's temperature stays within CLIP's own bounds."""
    if isinstance(model, CLIPModel):
        model.logit_scale.clamp_(max=math.log(100))


def write(model: CLIPModel | Sam, folder: Path) -> None:
    if isinstance(model, Sam):
        save_sam(model, folder)
    else:
        save_model(model, folder)


def read(model: CLIPModel | Sam, folder: Path) -> None:
    """Begin as a copy of a trained model of the same size."""
    if isinstance(model, Sam):
        model.load_state_dict(load_sam(folder))
    else:
        model.load_state_dict(CLIPModel.from_pretrained(folder).float().state_dict())


def report(step: int, plan: TrainingConfig, first: int, started: float, sums: dict[str, float]) -> None:
    """One progress line: losses, rate, time to go."""
    rate = (step - first) / (time.monotonic() - started)
    losses = "  ".join(f"{name} {total / plan.report_every:.3f}" for name, total in sums.items())
    minutes = (plan.steps - step) / rate / 60
    print(f"step {step}/{plan.steps}  {losses}  {rate:.2f} steps/s  {minutes:.0f} min to go", flush=True)  # noqa: T201


def save(checkpoint: Path, modules: nn.ModuleList, optimizer: torch.optim.Optimizer, step: int) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": tensor for name, tensor in modules.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
    fresh = checkpoint.with_suffix(".new")
    save_file(tensors | {"step": torch.tensor(step)}, fresh)
    fresh.replace(checkpoint)


def resume(checkpoint: Path, modules: nn.ModuleList, optimizer: torch.optim.Optimizer) -> int:
    """Load `checkpoint` if there is one; returns the step to go on with."""
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
    stage = STAGES[options.stage](folder)
    if options.start:
        read(stage.model, options.start)
    plan = TRAINING_CONFIGS[options.stage]
    plan = replace(plan, steps=options.steps or plan.steps, rate=options.rate or plan.rate)
    train(stage, plan, options.checkpoints / f"{options.stage}.safetensors", folder)


def folder_of(options: argparse.Namespace) -> Path:
    """Where a stage writes its model."""
    if options.stage == "trunk":
        return Path(options.checkpoints) / "trunk"
    stage: str = options.stage
    return Path(options.weights) / {"rehearsal": "classifier"}.get(stage, stage)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=STAGES, required=True)
    parser.add_argument("--start", type=Path, help="folder of a trained model of the same size to begin as a copy of")
    parser.add_argument("--steps", type=int, help="instead of the plan's")
    parser.add_argument("--rate", type=float, help="greatest learning rate, instead of the plan's")
    parser.add_argument("--checkpoints", type=Path, default=Path("out"))
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
