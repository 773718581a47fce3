"""The towers compute what transformers' CLIPModel does, from the same files."""

import json

import pytest
import torch
from torch.nn import functional
from transformers import CLIPModel

from tests.support.clips import write_clip
from worker.models.weights import load_encoder
from worker.segmenter.clip.network import ClipSizes

CPU = torch.device("cpu")


@pytest.fixture(params=["quick_gelu", "gelu"])
def folder(tmp_path, request):
    folder = tmp_path / "clip"
    write_clip(folder, layers=3, patch=16, image_size=64, seed=3)
    config = json.loads((folder / "config.json").read_text())
    for tower in ("text_config", "vision_config"):
        config[tower]["hidden_act"] = request.param
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@torch.no_grad()
def test_texts_and_images_have_the_embeddings_of_transformers(folder):
    ours, theirs = load_encoder(folder, device=CPU), CLIPModel.from_pretrained(folder).eval()
    texts = ["cat", "a photo of a rusty bolt", "x" * 70]
    pooled = theirs.text_model(input_ids=ours.tokens(texts)).pooler_output
    expected = functional.normalize(theirs.text_projection(pooled), dim=-1)
    torch.testing.assert_close(ours.texts(texts), expected, atol=1e-5, rtol=0)

    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    tokens, _ = ours.blocks(ours.embed(images, round_positions=False), 0, 3, attention_from=3)
    expected = theirs.visual_projection(theirs.vision_model(pixel_values=images).pooler_output)
    torch.testing.assert_close(ours.project(tokens[:, 0]), expected, atol=1e-4, rtol=1e-4)
    assert ours.scale == pytest.approx(float(theirs.logit_scale.exp()))


def test_sizes_that_a_config_leaves_out_are_those_of_transformers():
    sizes = ClipSizes.from_config({"vision_config": {"patch_size": 16}, "text_config": None})
    assert (sizes.vision.width, sizes.text.depth, sizes.patch, sizes.vocabulary) == (768, 12, 16, 49408)
    old = {"vision_config": {}, "vision_config_dict": {"hidden_size": 1024}, "text_config_dict": None}
    assert ClipSizes.from_config(old).vision.width == 1024


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="relu"):
        ClipSizes.from_config({"vision_config": {"hidden_act": "relu"}})
