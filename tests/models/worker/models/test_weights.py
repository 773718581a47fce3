"""Checkpoints: what is missing or wrong is named, with what to do; nothing unknown is unpickled."""

import ast
import json
from pathlib import Path

import pytest
import torch

from car.weights_digest import weights_digest
from tests.support.paths import ROOT
from worker.errors import WeightsInvalidError, WeightsMissingError
from worker.models.weights import find_clip_folder, load_pair

CPU = torch.device("cpu")


def test_a_pair_is_loaded_with_the_digests_of_its_weights(tiny_clips: Path) -> None:
    pair = load_pair(tiny_clips / "proposal", tiny_clips / "classifier", device=CPU)
    assert pair.digests == {role: weights_digest(tiny_clips / role) for role in ("proposal", "classifier")}
    assert pair.proposal.dtype is torch.float32


def test_a_digest_is_remembered_until_the_file_changes(tiny_clip_copy: Path) -> None:
    weights = tiny_clip_copy / "model.safetensors"
    first = weights_digest(tiny_clip_copy)
    assert json.loads((tiny_clip_copy / "model.safetensors.sha256").read_text())["sha256"] == first
    weights.write_bytes(weights.read_bytes() + b" ")
    assert weights_digest(tiny_clip_copy) != first


@pytest.mark.parametrize("name", ["config.json", "vocab.json", "merges.txt", "model.safetensors"])
def test_a_missing_file_is_named(tiny_clip_copy: Path, name: str) -> None:
    (tiny_clip_copy / name).unlink()
    with pytest.raises(WeightsMissingError, match=f"{name} is missing"):
        find_clip_folder(tiny_clip_copy)


def test_a_pickled_checkpoint_alone_is_never_opened(tiny_clip_copy: Path) -> None:
    (tiny_clip_copy / "model.safetensors").rename(tiny_clip_copy / "pytorch_model.bin")
    with pytest.raises(WeightsMissingError, match="never opened"):
        load_pair(tiny_clip_copy, tiny_clip_copy, device=CPU)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x04pickle"])
def test_a_damaged_checkpoint_is_named(tiny_clip_copy: Path, content: bytes) -> None:
    (tiny_clip_copy / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsInvalidError, match=r"model\.safetensors is not a readable safetensors file"):
        load_pair(tiny_clip_copy, tiny_clip_copy, device=CPU)


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "bert"}'])
def test_a_folder_that_is_no_clip_is_refused(tiny_clip_copy: Path, content: str) -> None:
    (tiny_clip_copy / "config.json").write_text(content)
    with pytest.raises(WeightsInvalidError, match=r"config\.json"):
        load_pair(tiny_clip_copy, tiny_clip_copy, device=CPU)


def test_a_model_of_another_activation_can_be_g_and_not_f(tiny_clips: Path, tiny_clip_copy: Path) -> None:
    config = json.loads((tiny_clip_copy / "config.json").read_text())
    config["vision_config"]["hidden_act"] = "gelu"
    (tiny_clip_copy / "config.json").write_text(json.dumps(config))
    assert load_pair(tiny_clips / "proposal", tiny_clip_copy, device=CPU).classifier.depth
    with pytest.raises(WeightsInvalidError, match="quick_gelu"):
        load_pair(tiny_clip_copy, tiny_clips / "classifier", device=CPU)


def test_weights_of_another_architecture_are_refused(tiny_clip_copy: Path) -> None:
    config = json.loads((tiny_clip_copy / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] += 1
    (tiny_clip_copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsInvalidError, match="tensors are missing or have another shape"):
        load_pair(tiny_clip_copy, tiny_clip_copy, device=CPU)


@pytest.mark.parametrize(
    "change",
    [{"image_mean": [0.5, 0.5, 0.5]}, {"image_std": [0.5, 0.5, 0.5]}, {"size": 32}, {"crop_size": {"height": 8}}],
)
def test_a_clip_with_another_preprocessing_is_refused(tiny_clip_copy: Path, change: dict[str, object]) -> None:
    (tiny_clip_copy / "preprocessor_config.json").write_text(json.dumps(change))
    with pytest.raises(WeightsInvalidError, match="another image size, mean or standard deviation"):
        load_pair(tiny_clip_copy, tiny_clip_copy, device=CPU)


def test_a_hub_model_that_was_never_pulled_names_the_command_that_pulls_it() -> None:
    with pytest.raises(WeightsMissingError, match="car models pull openai/no-such-clip"):
        find_clip_folder("openai/no-such-clip")


@pytest.mark.parametrize("where", ["./nowhere", "/nowhere/at/all", "nowhere"])
def test_a_folder_that_is_not_there_is_named(where: str) -> None:
    with pytest.raises(WeightsMissingError, match="there is no folder"):
        find_clip_folder(where)


def test_nothing_in_the_project_unpickles() -> None:
    forbidden = {"pickle", "joblib", "dill"}
    loads = []
    for folder in ("car", "worker", "cli", "evaluation", "demo", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text())
            imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
            called = {ast.unparse(n.func): n for n in ast.walk(tree) if isinstance(n, ast.Call)}
            assert not (imported | called.keys()) & forbidden, path
            loads += [(path.name, ast.unparse(called["torch.load"]))] if "torch.load" in called else []
    # Released SAMs alone, known by their content before they are opened.
    assert loads == [("weights.py", "torch.load(checkpoint, map_location='cpu', weights_only=True)")]
