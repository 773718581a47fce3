import json

import numpy as np
import pytest
import torch
from transformers import CLIPModel, CLIPTokenizer

from car.clip_tokenizer import byte_alphabet
from demo.clip_models import WEIGHTS
from demo.crops import crop_target, draw_crop, framed, random_mask
from demo.proposal_training import mask_loss, smoothed, word_coverage
from demo.scenes import WORDS, Split, draw_scene, generator
from demo.texts import corpus_words
from demo.tokenizer import learn_merges, write_tokenizer

MODELS = ["proposal", "classifier"]


@pytest.fixture(scope="module", params=MODELS)
def folder(request):
    return WEIGHTS / request.param


@pytest.fixture(scope="module")
def model(folder):
    return CLIPModel.from_pretrained(folder).float().eval()


@pytest.fixture(scope="module")
def tokenizer(folder):
    return CLIPTokenizer.from_pretrained(folder)


def test_embedded_models_are_small_enough_for_git():
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*")) < 10_000_000


def test_a_model_folder_is_complete(folder):
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.json", "model.safetensors", "vocab.json", "merges.txt", "tokenizer_config.json"}
    size = json.loads((folder / "preprocessor_config.json").read_text())["crop_size"]["height"]
    assert size == json.loads((folder / "config.json").read_text())["vision_config"]["image_size"]


def test_the_vision_tower_has_the_structure_that_car_reads(model):
    vision = model.config.vision_config
    assert vision.hidden_act == model.config.text_config.hidden_act == "quick_gelu"
    assert vision.num_hidden_layers >= 9
    assert vision.patch_size == 16


def test_weights_are_finite(model):
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


@pytest.mark.parametrize("text", ["red circle", "a clean origami Red circle.", "Zürich, 日本 🦊!", "12 x 34", "  "])
def test_any_text_is_tokenised_and_comes_back(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id == max(tokenizer.get_vocab().values())
    assert ids.count(tokenizer.eos_token_id) == 1
    decoded = tokenizer.decode(ids, skip_special_tokens=True)
    assert decoded.replace(" ", "") == text.lower().replace(" ", "")


def test_words_of_the_world_are_single_tokens(tokenizer):
    assert all(len(tokenizer(word)["input_ids"]) == 4 for word in WORDS)


def test_the_end_token_pools_the_text_whatever_stands_behind_it(model, tokenizer):
    ids = torch.tensor([tokenizer("red circle")["input_ids"]])
    padded = torch.nn.functional.pad(ids, (0, 9), value=tokenizer.eos_token_id)
    with torch.no_grad():
        short, long = (model.text_model(input_ids=tokens).pooler_output for tokens in (ids, padded))
    assert torch.allclose(short, long, atol=1e-5)


def test_byte_alphabet_holds_256_different_letters():
    assert len(set(byte_alphabet())) == 256


def test_merges_make_every_word_one_token(tmp_path):
    assert ("a", "t</w>") in learn_merges(["cat", "hat"])
    write_tokenizer(tmp_path, corpus_words())
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    assert all(len(tokenizer(word)["input_ids"]) == 3 for word in corpus_words())


def test_a_mask_of_one_object_asks_for_its_word():
    scene = _scene_with(2)
    word = WORDS.index(scene.words[0])
    target = crop_target(scene.labels, scene.labels == word + 1)
    assert target.argmax() == word
    assert target.max() == pytest.approx(1)


def test_a_mask_of_plain_background_asks_for_no_word():
    scene = _scene_with(1)
    target = crop_target(scene.labels, scene.labels == 0)
    assert target.max() == pytest.approx(1 / len(WORDS))


def test_random_masks_and_crops_are_the_same_for_the_same_seed():
    scene = _scene_with(2)
    a, b = (draw_crop(np.random.default_rng(4), scene, 96) for _ in range(2))
    assert np.array_equal(a.image, b.image)
    assert a.image.shape == (96, 96, 3)
    assert a.target.sum() == pytest.approx(1, abs=1e-5)
    assert random_mask(np.random.default_rng(4), scene.labels).shape == scene.labels.shape


def test_a_label_map_is_framed_as_the_classifier_frames_its_image():
    labels = np.zeros((100, 200), np.int16)
    labels[:, 50:150] = 7
    assert (framed(labels, 64) == 7).all()


def test_coverage_is_the_share_of_each_patch():
    labels = np.zeros((32, 32), np.int16)
    labels[:16, :8] = 3
    coverage = word_coverage(labels, 16)
    assert coverage.shape == (len(WORDS), 2, 2)
    assert coverage[2, 0, 0] == pytest.approx(0.5)
    assert coverage.sum() == pytest.approx(0.5)


def test_the_mask_loss_is_least_for_the_mask_itself():
    mask = torch.tensor([[0.0, 1.0, 1.0, 0.0]])
    assert mask_loss(mask, mask) < mask_loss(1 - mask, mask)


def test_smoothing_with_attention_to_oneself_changes_only_what_lies_outside_boxes():
    cam = torch.zeros(1, 16)
    cam[0, 5] = 1
    assert torch.allclose(smoothed(cam, torch.eye(16)[None], (4, 4), np.random.default_rng(0)), cam, atol=1e-4)


def _scene_with(words):
    for seed in range(100):
        scene = draw_scene(generator(Split.HELD_OUT, seed))
        if len(scene.words) == words:
            return scene
    raise AssertionError("no such scene")
