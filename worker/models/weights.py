"""The one place that opens checkpoints: CLIPs as transformers folders and SAMs as folders of config.json and
model.safetensors, named by content. Of pickles it opens one kind, once: released SAMs, to convert them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from car.options import Precision
from car.weights_digest import WEIGHTS, weights_digest
from worker.cpu_count import usable_cpus
from worker.errors import WeightsInvalidError, WeightsMissingError
from worker.models.hub import FILES, pulled
from worker.models.sam_checkpoints import RELEASES, Release, pulled_sam
from worker.segmenter.clip.encoder import Encoder

if TYPE_CHECKING:
    from worker.segmenter.sam.automatic_masks import AutomaticMasks

_SAM_FILES = ("config.json", WEIGHTS)


@dataclass(frozen=True)
class ClipPair:
    """f and g, ready to encode, and what they are."""

    proposal: Encoder
    classifier: Encoder
    digests: dict[str, str]
    """Role (proposal, classifier) to the sha256 of its safetensors: what model_version is made of."""


def load_pair(
    proposal: str | Path, classifier: str | Path, *, device: torch.device, precision: Precision = Precision.AUTO
) -> ClipPair:
    """Two CLIPs from folders or hub ids: by themselves float32 on a CPU, half precision on CUDA as the paper ran them.

    On CUDA a lower precision is that of both models. On a CPU it is that of g's blocks, which are nearly all of its
    time: f's share is small, and its CAMs are differences of near numbers.

    Raises:
        WeightsMissing: no such folder, or a file of it is absent, or the hub model was never pulled.
        WeightsInvalid: a file is damaged or no CLIP checkpoint.

    """
    roles = {"proposal": folder_of(proposal), "classifier": folder_of(classifier)}
    _check_activation(roles["proposal"])
    # Fewer where someone wished so (OMP_NUM_THREADS), never more than the container has time for.
    torch.set_num_threads(min(torch.get_num_threads(), usable_cpus()))
    wanted = _dtype(precision, device)
    whole = wanted if device.type == "cuda" else torch.float32
    proposal_encoder, classifier_encoder = (
        load_encoder(folder, device=device, dtype=whole) for folder in roles.values()
    )
    if wanted is not whole:
        classifier_encoder.round_blocks(wanted)
    return ClipPair(
        proposal_encoder, classifier_encoder, {role: weights_digest(folder) for role, folder in roles.items()}
    )


def _dtype(precision: Precision, device: torch.device) -> torch.dtype:
    if precision is Precision.AUTO:
        return torch.float16 if device.type == "cuda" else torch.float32
    return {
        Precision.FLOAT32: torch.float32,
        Precision.BFLOAT16: torch.bfloat16,
        Precision.FLOAT16: torch.float16,
    }[precision]


def load_encoder(folder: Path, *, device: torch.device, dtype: torch.dtype = torch.float32) -> Encoder:
    """One CLIP from a complete local folder, all of it in one precision."""
    _check_config(folder)
    _check_readable(folder / WEIGHTS)
    transformers_logging.disable_progress_bar()
    model, report = CLIPModel.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
    )
    if report["missing_keys"] or report["mismatched_keys"]:
        lacking = sorted([*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])])
        raise WeightsInvalidError(
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
            raise WeightsMissingError(f"there is no folder {name}")
        folder = pulled(name)
    if not folder.is_dir():
        raise WeightsMissingError(f"{folder} is a file; a CLIP model is a folder with {', '.join(FILES)}")
    for name in FILES:
        if not (folder / name).is_file():
            raise WeightsMissingError(
                f"{folder / name} is missing; a CLIP model folder holds {', '.join(FILES)} (weights as safetensors: "
                f"pickled .bin and .pt files are never opened)"
            )
    return folder


def load_sam(where: str | Path, *, device: torch.device) -> "AutomaticMasks":
    """A SAM from a folder or by the name of a release that was pulled: float32, as the official generator runs it.

    Its code is imported here and nowhere else, so that recipes without SAM never pay for it.

    Raises:
        WeightsMissing: no such folder, or a file of it is absent, or the release was never pulled.
        WeightsInvalid: a file is damaged or no SAM.

    """
    from worker.segmenter.sam.automatic_masks import AutomaticMasks  # noqa: PLC0415
    from worker.segmenter.sam.network import MODEL_TYPE, SamSizes, filled  # noqa: PLC0415

    folder = sam_folder_of(where)
    config = _config_of(folder)
    if config.get("model_type") != MODEL_TYPE:
        raise WeightsInvalidError(f"{folder / 'config.json'} describes no SAM (model_type must be {MODEL_TYPE!r})")
    _check_readable(folder / WEIGHTS)
    try:
        network = filled(SamSizes.from_json(config), load_file(folder / WEIGHTS))
    except (TypeError, ValueError, RuntimeError) as error:
        raise WeightsInvalidError(f"{folder / WEIGHTS} does not fit {folder / 'config.json'}: {error}") from error
    return AutomaticMasks.suited_to(network.to(device))


def sam_folder_of(where: str | Path) -> Path:
    """The local folder of a SAM: itself, or that of a release that was pulled before.

    Raises:
        WeightsMissing: it is not there, or not whole.

    """
    if str(where) in RELEASES:
        return pulled_sam(str(where))
    folder = Path(where)
    if folder.is_file():
        raise WeightsMissingError(
            f"{folder} is a file; `car models convert {folder} FOLDER` makes a SAM folder of a release"
        )
    if not folder.is_dir():
        raise WeightsMissingError(f"there is no folder {where}; a SAM is a folder or one of {', '.join(RELEASES)}")
    for name in _SAM_FILES:
        if not (folder / name).is_file():
            raise WeightsMissingError(f"{folder / name} is missing; a SAM folder holds {', '.join(_SAM_FILES)}")
    return folder


def convert_sam(checkpoint: Path, folder: Path, *, releases: Mapping[str, Release] = RELEASES) -> str:
    """Write a released SAM's tensors as safetensors; returns the release's name.

    The file is unpickled, so it must be a release by its sha256, and torch is told to make nothing but tensors of it.

    Raises:
        WeightsMissing: there is no such file.
        WeightsInvalid: it is not a release.

    """
    from worker.segmenter.sam import network as sam_network  # noqa: PLC0415

    name = release_of(checkpoint, releases=releases)
    sizes: sam_network.SamSizes = getattr(sam_network, releases[name].sizes.upper())
    tensors = torch.load(checkpoint, map_location="cpu", weights_only=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(sizes.to_json(), indent=2) + "\n")
    fresh = folder / f"{WEIGHTS}.new"
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, fresh)
    fresh.replace(folder / WEIGHTS)
    return name


def release_of(checkpoint: Path, *, releases: Mapping[str, Release] = RELEASES) -> str:
    """The name of the release that a file is, by its content.

    Raises:
        WeightsMissing: there is no such file.
        WeightsInvalid: it is not a release.

    """
    if not checkpoint.is_file():
        raise WeightsMissingError(f"there is no file {checkpoint}")
    with checkpoint.open("rb") as stream:
        sha = hashlib.file_digest(stream, "sha256").hexdigest()
    for name, release in releases.items():
        if release.sha256 == sha:
            return name
    raise WeightsInvalidError(
        f"{checkpoint} (sha256 {sha}) is none of the released checkpoints {', '.join(releases)}; "
        "others are not opened, because a pickle can run code"
    )


def _check_config(folder: Path) -> None:
    if _config_of(folder).get("model_type") != "clip":
        raise WeightsInvalidError(f"{folder / 'config.json'} describes no CLIP model (model_type must be 'clip')")


def _check_activation(proposal: Path) -> None:
    """The gradients of f's last block are written out for the activation of OpenAI's CLIPs."""
    vision = _config_of(proposal).get("vision_config") or {}
    activation = vision.get("hidden_act", "quick_gelu")
    if activation != "quick_gelu":
        raise WeightsInvalidError(
            f"{proposal / 'config.json'} says hidden_act {activation!r}; CAMs are made of CLIPs with 'quick_gelu' "
            "alone, so this model can be g and not f"
        )


def _config_of(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise WeightsInvalidError(f"{folder / 'config.json'} is not JSON: {error}") from error
    return config if isinstance(config, dict) else {}


def _check_readable(weights: Path) -> None:
    try:
        with safe_open(weights, framework="pt") as tensors:
            tensors.keys()
    except (SafetensorError, OSError) as error:
        raise WeightsInvalidError(f"{weights} is not a readable safetensors file ({error}); fetch it again") from error
