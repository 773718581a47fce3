"""The only module that opens checkpoints: CLIPs as transformers folders, SAMs as folders of config.json and
model.safetensors. It opens pickles of released SAMs only, identified by sha256, to convert them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from car.clip_tokenizer import OPENAI, ClipTokenizer, openai_merges
from car.options import Precision
from car.weights_digest import WEIGHTS, weights_digest
from worker.errors import WeightsInvalidError, WeightsMissingError
from worker.models.hub import FILES, find_snapshot
from worker.models.sam_checkpoints import RELEASES, Release, cached_sam_folder
from worker.segmenter.clip.encoder import MEAN, STD, Encoder
from worker.segmenter.clip.network import ClipNetwork, ClipSizes
from worker.settings import usable_cpus

if TYPE_CHECKING:
    from worker.segmenter.sam.automatic_masks import AutomaticMasks

_SAM_FILES = ("config.json", WEIGHTS)


@dataclass(frozen=True)
class ClipPair:
    """The encoders f and g, with the digests of their weights."""

    proposal: Encoder
    classifier: Encoder
    digests: dict[str, str]
    """Role (proposal, classifier) to the sha256 of its safetensors; part of the model version."""


def load_pair(
    proposal: str | Path, classifier: str | Path, *, device: torch.device, precision: Precision = Precision.AUTO
) -> ClipPair:
    """Load two CLIPs from folders or hub ids. AUTO is float32 on a CPU, and on CUDA float16 as in the paper.

    On CUDA a lower precision applies to both models. On a CPU it applies to g's blocks only, which take nearly all of
    the time: f takes little, and its CAMs are differences of close numbers.

    Raises: WeightsMissingError; WeightsInvalidError, if a file is damaged or not a CLIP checkpoint.
    """
    roles = {"proposal": find_clip_folder(proposal), "classifier": find_clip_folder(classifier)}
    _check_activation(roles["proposal"])
    # OMP_NUM_THREADS may set fewer; the container's CPU quota is the most that helps.
    torch.set_num_threads(min(torch.get_num_threads(), usable_cpus()))
    block_dtype = _dtype(precision, device)
    dtype = block_dtype if device.type == "cuda" else torch.float32
    proposal_encoder, classifier_encoder = (
        load_encoder(folder, device=device, dtype=dtype) for folder in roles.values()
    )
    if block_dtype is not dtype:
        classifier_encoder.round_blocks(block_dtype)
    return ClipPair(
        proposal_encoder, classifier_encoder, {role: weights_digest(folder) for role, folder in roles.items()}
    )


def _dtype(precision: Precision, device: torch.device) -> torch.dtype:
    if precision is Precision.AUTO:
        return torch.float16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, precision.value)
    return dtype


def load_encoder(folder: Path, *, device: torch.device, dtype: torch.dtype = torch.float32) -> Encoder:
    """Load a CLIP from a complete local folder, all of it in one precision."""
    config = _check_model(folder, "clip")
    try:
        sizes = ClipSizes.from_config(config)
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / WEIGHTS).items()}
        network = ClipNetwork.from_tensors(sizes, tensors)
    except (TypeError, ValueError, AttributeError) as error:
        raise WeightsInvalidError(f"{folder / WEIGHTS} does not fit {folder / 'config.json'}: {error}") from error
    _check_preprocessing(folder, sizes.image_size)
    return Encoder(network.to(device), _load_tokenizer(folder))


def _load_tokenizer(folder: Path) -> ClipTokenizer:
    """Return the tokenizer of merges.txt, whose ids vocab.json must have."""
    try:
        merges = (folder / "merges.txt").read_text(encoding="utf-8")
        tokenizer = ClipTokenizer.from_text(merges)
        ids = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsInvalidError(f"the tokenizer of {folder} cannot be read: {error}") from error
    if ids != tokenizer.ids:
        raise WeightsInvalidError(
            f"{folder / 'vocab.json'} does not have CLIP's token ids for merges.txt: such tokenizers are not supported"
        )
    return tokenizer


def _check_preprocessing(folder: Path, image_size: int) -> None:
    """Refuse a CLIP that reads images in another way than OpenAI's, which the encoder implements."""
    path = folder / "preprocessor_config.json"
    if not path.exists():
        return
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        sides = [_sides(config[name]) for name in ("size", "crop_size") if config.get(name) is not None]
        is_usual = (
            all(side == image_size for side in chain.from_iterable(sides))
            and np.allclose(config.get("image_mean", MEAN), MEAN, atol=1e-4)
            and np.allclose(config.get("image_std", STD), STD, atol=1e-4)
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsInvalidError(f"{path} cannot be read: {error}") from error
    if not is_usual:
        raise WeightsInvalidError(
            f"{path} has another image size, mean or standard deviation than OpenAI's CLIP at {image_size} pixels; "
            "such models are not supported"
        )


def _sides(size: Any) -> list[int]:  # noqa: ANN401 - JSON: 224, {"shortest_edge": 224} or {"height": 224, "width": 224}
    return list(size.values()) if isinstance(size, dict) else [int(size)]


def tokenizer_merges(encoder: Encoder) -> str:
    """Return the merges of a CLIP's byte-pair encoding, one per line, or "openai" for those of OpenAI's CLIPs."""
    if not isinstance(encoder.tokenizer, ClipTokenizer):
        raise TypeError(f"a tokenizer of type {type(encoder.tokenizer).__name__} has no merges")
    merges = "\n".join(map(" ".join, encoder.tokenizer.merges))
    return OPENAI if merges == openai_merges().rstrip("\n") else merges


def find_clip_folder(path: str | Path) -> Path:
    """Return a CLIP's complete local folder: `path`, or the snapshot of a pulled model. Raises: WeightsMissingError."""
    folder = Path(path)
    if not folder.exists():
        name = str(path)
        if name.startswith((".", "/", "~")) or name.count("/") != 1:
            raise WeightsMissingError(f"there is no folder {name}")
        folder = find_snapshot(name)
    if not folder.is_dir():
        raise WeightsMissingError(f"{folder} is a file; a CLIP model is a folder with {', '.join(FILES)}")
    _check_files(folder, FILES, "a CLIP model with safetensors (pickled .bin and .pt files are never opened)")
    return folder


def load_sam(path: str | Path, *, device: torch.device) -> "AutomaticMasks":
    """Load a SAM from a folder or by the name of a pulled release, in float32 like the official generator.

    SAM's code is imported only here, so that recipes without SAM do not pay for it.

    Raises: WeightsMissingError; WeightsInvalidError, if a file is damaged or not a SAM.
    """
    from worker.segmenter.sam.automatic_masks import AutomaticMasks  # noqa: PLC0415
    from worker.segmenter.sam.network import MODEL_TYPE, SamSizes, build_from_tensors  # noqa: PLC0415

    folder = find_sam_folder(path)
    config = _check_model(folder, MODEL_TYPE)
    try:
        network = build_from_tensors(SamSizes.from_json(config), load_file(folder / WEIGHTS))
    except (TypeError, ValueError, RuntimeError) as error:
        raise WeightsInvalidError(f"{folder / WEIGHTS} does not fit {folder / 'config.json'}: {error}") from error
    return AutomaticMasks.for_network(network.to(device))


def find_sam_folder(path: str | Path) -> Path:
    """Return a SAM's complete local folder: `path`, or that of a pulled release. Raises: WeightsMissingError."""
    if str(path) in RELEASES:
        return cached_sam_folder(str(path))
    folder = Path(path)
    if folder.is_file():
        raise WeightsMissingError(
            f"{folder} is a file; `car models convert {folder} FOLDER` converts a release to a SAM folder"
        )
    if not folder.is_dir():
        raise WeightsMissingError(f"there is no folder {path}; a SAM is a folder or one of {', '.join(RELEASES)}")
    _check_files(folder, _SAM_FILES, "a SAM")
    return folder


def convert_sam(checkpoint: Path, folder: Path, *, releases: Mapping[str, Release] = RELEASES) -> str:
    """Convert a released SAM to a folder with safetensors, and return the release's name. Raises: WeightsError.

    Unpickling can run code, so the file must be a release by its sha256, and torch unpickles tensors only.
    """
    from worker.segmenter.sam import network as sam_network  # noqa: PLC0415

    name = identify_release(checkpoint, releases=releases)
    sizes: sam_network.SamSizes = getattr(sam_network, releases[name].architecture.upper())
    tensors = torch.load(checkpoint, map_location="cpu", weights_only=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(sizes.to_json(), indent=2) + "\n")
    temporary = folder / f"{WEIGHTS}.new"
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, temporary)
    temporary.replace(folder / WEIGHTS)
    return name


def identify_release(checkpoint: Path, *, releases: Mapping[str, Release] = RELEASES) -> str:
    """Return the name of the release whose content a file has. Raises: WeightsMissingError, WeightsInvalidError."""
    if not checkpoint.is_file():
        raise WeightsMissingError(f"there is no file {checkpoint}")
    with checkpoint.open("rb") as stream:
        sha = hashlib.file_digest(stream, "sha256").hexdigest()
    for name, release in releases.items():
        if release.sha256 == sha:
            return name
    raise WeightsInvalidError(
        f"{checkpoint} (sha256 {sha}) is not one of the released checkpoints {', '.join(releases)}; "
        "others are not opened, because a pickle can run code"
    )


def _check_model(folder: Path, model_type: str) -> dict[str, Any]:
    """Return the configuration of a model folder whose type is `model_type` and whose weights can be read."""
    config = _read_config(folder)
    if config.get("model_type") != model_type:
        raise WeightsInvalidError(
            f"{folder / 'config.json'} has model_type {config.get('model_type')!r}, not {model_type!r}"
        )
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as tensors:
            tensors.keys()
    except (SafetensorError, OSError) as error:
        raise WeightsInvalidError(
            f"{folder / WEIGHTS} is not a readable safetensors file ({error}); download it again"
        ) from error
    return config


def _check_files(folder: Path, names: tuple[str, ...], model: str) -> None:
    for name in names:
        if not (folder / name).is_file():
            raise WeightsMissingError(f"{folder / name} is missing; {model} is a folder with {', '.join(names)}")


def _check_activation(proposal: Path) -> None:
    """Refuse other activations than that of OpenAI's CLIPs, for which the gradients of f's last block are written."""
    vision = _read_config(proposal).get("vision_config") or {}
    activation = vision.get("hidden_act", "quick_gelu")
    if activation != "quick_gelu":
        raise WeightsInvalidError(
            f"{proposal / 'config.json'} has hidden_act {activation!r}, but CAMs need 'quick_gelu': this model can "
            "be the classifier, not the proposal model"
        )


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise WeightsInvalidError(f"{folder / 'config.json'} is not JSON: {error}") from error
    return config if isinstance(config, dict) else {}
