"""A pair of tiny CLIPs with random weights on disk, made once."""

import json
import shutil

import pytest
import torch
from transformers import CLIPConfig, CLIPModel
from transformers.utils import logging as transformers_logging

CONTEXT = 77


def byte_letters():
    """The letters that byte-level BPE writes for the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + place) for place in range(len(others))]


def write_tokenizer(folder):
    """A BPE without merges: every letter is a token, so that no vocabulary need be shipped."""
    letters = byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return len(tokens)


def write_clip(folder, *, layers, patch, image_size, seed):
    folder.mkdir(parents=True)
    vocabulary = write_tokenizer(folder)
    shared = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "hidden_act": "quick_gelu"}
    torch.manual_seed(seed)
    config = CLIPConfig(
        text_config=shared
        | {
            "num_hidden_layers": 2,
            "vocab_size": vocabulary,
            "max_position_embeddings": CONTEXT,
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
            "pad_token_id": vocabulary - 1,
        },
        vision_config=shared | {"num_hidden_layers": layers, "patch_size": patch, "image_size": image_size},
        projection_dim=32,
        initializer_factor=20.0,  # else random towers see all pictures alike
    )
    transformers_logging.disable_progress_bar()
    CLIPModel(config).save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_clips(tmp_path_factory):
    """A folder as --models takes it: proposal/ and classifier/. Not to be changed."""
    folder = tmp_path_factory.mktemp("models")
    write_clip(folder / "proposal", layers=9, patch=16, image_size=64, seed=1)
    write_clip(folder / "classifier", layers=9, patch=14, image_size=56, seed=2)
    return folder


@pytest.fixture
def tiny_clip_copy(tiny_clips, tmp_path):
    """A CLIP folder of one's own."""
    return shutil.copytree(tiny_clips / "proposal", tmp_path / "clip")
