"""SAM's checkpoints: folders that are opened, releases that are fetched and converted, and everything else refused."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from car.presets import apply_settings, preset
from car.weights_digest import weights_digest
from cli.main import app
from worker.errors import WeightsInvalidError, WeightsMissingError
from worker.models import sam_checkpoints
from worker.models.sam_checkpoints import RELEASES, Release, cached_sam_folder, downloaded_release
from worker.models.weights import convert_sam, find_sam_folder, load_sam
from worker.segmenter.sam.network import SamSizes, build

CPU = torch.device("cpu")
TINY = SamSizes(
    image_size=64, patch=8, width=16, depth=1, heads=2, global_blocks=(0,), prompt_width=16, decoder_heads=2,
    decoder_mlp=16, quality_hidden=16, mask_prompt_width=4,
)  # fmt: skip


@dataclass
class FakeSource:
    """A server with one file, in small pieces."""

    content: bytes
    requested_url: str = ""

    def __call__(self, url: str) -> Iterator[bytes]:
        self.requested_url = url
        for start in range(0, len(self.content), 1000):
            yield self.content[start : start + 1000]


def unreachable(url: str) -> Iterator[bytes]:
    raise WeightsMissingError(f"{url} could not be downloaded: no network")


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    return build(TINY).state_dict()


@pytest.fixture
def folder(tmp_path, tensors):
    folder = tmp_path / "sam"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY.to_json()))
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(sam_checkpoints.constants, "HF_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "car-labeler"


@pytest.fixture
def release(tmp_path, tensors):
    """A checkpoint as SAM's authors publish theirs, and what is known of it."""
    path = tmp_path / "sam_vit_x.pth"
    torch.save(tensors, path)
    return path, {
        "sam-vit-x": Release("vit_b", "https://sam.invalid/x.pth", hashlib.sha256(path.read_bytes()).hexdigest())
    }


def test_a_folder_becomes_a_sam_that_finds_masks(folder, tensors):
    sam = load_sam(folder, device=CPU)
    assert {key: t.shape for key, t in sam.network.state_dict().items()} == {k: t.shape for k, t in tensors.items()}
    assert not any(parameter.requires_grad for parameter in sam.network.parameters())
    assert not any(tensor.is_meta for tensor in (*sam.network.parameters(), *sam.network.buffers()))
    recipe = apply_settings(preset("demo"), {"sam_points_per_side": "2", "sam_pred_iou": "0", "sam_stability": "0"})
    assert isinstance(sam(np.zeros((20, 30, 3), np.uint8), recipe), tuple)


def test_half_precision_on_disk_is_float32_in_memory(folder, tensors):
    save_file({key: tensor.half() for key, tensor in tensors.items()}, folder / "model.safetensors")
    assert {p.dtype for p in load_sam(folder, device=CPU).network.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(WeightsMissingError, match=f"{name} is missing"):
        load_sam(folder, device=CPU)


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "clip"}', '{"model_type": "segment_anything"}'])
def test_a_configuration_that_describes_no_sam_is_refused(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(WeightsInvalidError, match=r"config\.json"):
        load_sam(folder, device=CPU)


def test_weights_of_other_sizes_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"depth": 2}))
    with pytest.raises(WeightsInvalidError, match="does not fit"):
        load_sam(folder, device=CPU)


def test_a_damaged_file_is_named(folder):
    (folder / "model.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(WeightsInvalidError, match="not a readable safetensors file"):
        load_sam(folder, device=CPU)


def test_a_pickle_is_not_opened_and_the_command_that_converts_it_is_named(release):
    with pytest.raises(WeightsMissingError, match="car models convert"):
        find_sam_folder(release[0])


@pytest.mark.parametrize("where", ["nowhere", "./nowhere", "openai/clip"])
def test_a_place_without_a_sam_is_named(where):
    with pytest.raises(WeightsMissingError, match=r"there is no folder .*sam-vit-h"):
        find_sam_folder(where)


@pytest.mark.usefixtures("store")
def test_a_release_that_was_never_pulled_names_the_command():
    with pytest.raises(WeightsMissingError, match="car models pull sam-vit-h"):
        find_sam_folder("sam-vit-h")


def test_a_release_is_converted_tensor_by_tensor(release, tmp_path, tensors):
    path, releases = release
    assert convert_sam(path, tmp_path / "out", releases=releases) == "sam-vit-x"
    converted = load_file(tmp_path / "out" / "model.safetensors")
    assert converted.keys() == tensors.keys()
    assert all(torch.equal(converted[key], tensors[key]) for key in tensors)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["width"] == 768
    assert not list((tmp_path / "out").glob("*.new"))


def test_a_checkpoint_of_other_content_is_not_opened(release, tmp_path):
    path, releases = release
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(WeightsInvalidError, match="is not one of the released checkpoints sam-vit-x"):
        convert_sam(path, tmp_path / "out", releases=releases)
    assert not (tmp_path / "out").exists()


def test_a_release_is_fetched_checked_and_taken_away_again(release, store):
    path, releases = release
    source = FakeSource(path.read_bytes())
    with downloaded_release("sam-vit-x", source, releases=releases) as file:
        assert file.read_bytes() == path.read_bytes()
        convert_sam(file, store / "sam-vit-x", releases=releases)
    assert source.requested_url == "https://sam.invalid/x.pth"
    assert not file.exists()
    assert cached_sam_folder("sam-vit-x") == store / "sam-vit-x"
    assert len(weights_digest(store / "sam-vit-x")) == 64


def test_a_file_that_is_not_the_release_is_thrown_away(release, store):
    with (
        pytest.raises(WeightsInvalidError, match=r"has sha256 .*, not "),
        downloaded_release("sam-vit-x", FakeSource(b"something else"), releases=release[1]),
    ):
        pytest.fail("it was handed out")
    assert not list(store.iterdir())


def test_a_server_out_of_reach_leaves_nothing_behind(store):
    with pytest.raises(WeightsMissingError, match="no network"), downloaded_release("sam-vit-h", unreachable):
        pytest.fail("it was handed out")
    assert not list(store.iterdir())


def test_every_release_is_pinned():
    assert {release.architecture for release in RELEASES.values()} == {"vit_b", "vit_l", "vit_h"}
    assert all(len(release.sha256) == 64 and release.url.startswith("https://") for release in RELEASES.values())
    assert len({release.sha256 for release in RELEASES.values()}) == 3


def test_the_command_refuses_a_checkpoint_it_does_not_know(release, tmp_path):
    result = CliRunner().invoke(app, ["models", "convert", str(release[0]), str(tmp_path / "out")])
    assert result.exit_code != 0
    assert not (tmp_path / "out").exists()
