"""The one place that opens checkpoints: pairs of CLIPs as transformers folders, safetensors only, named by content."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import CLIPModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from car.weights_digest import WEIGHTS, weights_digest
from worker.errors import WeightsInvalid, WeightsMissing
from worker.hub import FILES, pulled
from worker.segmenter.encoder import Encoder


@dataclass(frozen=True)
class ClipPair:
    """f and g, ready to encode, and what they are."""

    proposal: Encoder
    classifier: Encoder
    digests: dict[str, str]
    """Role (proposal, classifier) to the sha256 of its safetensors: what model_version is made of."""


def load_pair(proposal: str | Path, classifier: str | Path, *, device: torch.device) -> ClipPair:
    """Two CLIPs from folders or hub ids: float32 on a CPU, half precision on CUDA as the paper ran them.

    Raises:
        WeightsMissing: no such folder, or a file of it is absent, or the hub model was never pulled.
        WeightsInvalid: a file is damaged or no CLIP checkpoint.

    """
    roles = {"proposal": folder_of(proposal), "classifier": folder_of(classifier)}
    proposal_encoder, classifier_encoder = (load_encoder(folder, device=device) for folder in roles.values())
    return ClipPair(
        proposal_encoder, classifier_encoder, {role: weights_digest(folder) for role, folder in roles.items()}
    )


def load_encoder(folder: Path, *, device: torch.device) -> Encoder:
    """One CLIP from a complete local folder."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    _check_config(folder)
    _check_readable(folder / WEIGHTS)
    transformers_logging.disable_progress_bar()
    model, report = CLIPModel.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
    )
    if report["missing_keys"] or report["mismatched_keys"]:
        lacking = sorted([*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])])
        raise WeightsInvalid(
            f"{folder / WEIGHTS} does not fit {folder / 'config.json'}: {len(lacking)} tensors are missing or "
            f"of another shape, the first is {lacking[0]}"
        )
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    return Encoder(model.eval().requires_grad_(requires_grad=False).to(device), tokenizer)


def folder_of(where: str | Path) -> Path:
    """The local folder of a model: itself, or the snapshot of a hub id that was pulled before.

    Raises:
        WeightsMissing: it is not there, or not whole.

    """
    folder = Path(where)
    if not folder.exists():
        name = str(where)
        if name.startswith((".", "/", "~")) or name.count("/") != 1:
            raise WeightsMissing(f"there is no folder {name}")
        folder = pulled(name)
    if not folder.is_dir():
        raise WeightsMissing(f"{folder} is a file; a CLIP model is a folder with {', '.join(FILES)}")
    for name in FILES:
        if not (folder / name).is_file():
            raise WeightsMissing(
                f"{folder / name} is missing; a CLIP model folder holds {', '.join(FILES)} (weights as safetensors: "
                f"pickled .bin and .pt files are never opened)"
            )
    return folder


def _check_config(folder: Path) -> None:
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise WeightsInvalid(f"{folder / 'config.json'} is not JSON: {error}") from error
    if not isinstance(config, dict) or config.get("model_type") != "clip":
        raise WeightsInvalid(f"{folder / 'config.json'} describes no CLIP model (model_type must be 'clip')")


def _check_readable(weights: Path) -> None:
    try:
        with safe_open(weights, framework="pt") as tensors:
            tensors.keys()
    except (SafetensorError, OSError) as error:
        raise WeightsInvalid(f"{weights} is not a readable safetensors file ({error}); fetch it again") from error
