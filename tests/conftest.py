"""What several test modules share: a pair of tiny CLIPs with random weights on disk, made once, and pictures.

Shapes and types of the segmenter's tensors are checked while tests run.
"""

import json
import os
import shutil
from importlib.util import find_spec

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is loaded, and for processes that tests start: those that run side by side share the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook
from PIL import Image
from transformers import CLIPConfig, CLIPModel
from transformers.utils import logging as transformers_logging

install_import_hook("worker.segmenter", "beartype.beartype").__enter__()

from worker.segmenter.crf import ReferenceMissing  # noqa: E402 - the hook comes before it

pytest_plugins = [  # whatever another one imports comes before it
    "tests.services",
    "tests.api_client",
    "tests.rows",
    "tests.label_studio_rows",
    "tests.fake_label_studio",
    "tests.outbox",
    "tests.painter",
    "tests.picture_server",
    "tests.sources",
    "tests.recorded",
    "tests.crf_arrays",
]

CONTEXT = 77


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    """What is compared with pydensecrf is left out where nobody could compile it."""
    try:
        return (yield)
    except ReferenceMissing as missing:
        if find_spec("pydensecrf") is not None:
            raise
        pytest.skip(str(missing))


@pytest.fixture(autouse=True)
def _the_environment_as_before():
    """Commands that tests run in this process set variables for the processes that they start."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys() - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})


@pytest.fixture(autouse=True)
def _as_many_threads_as_before():
    """Benchmarks set the number of torch's threads for their process; the last bits of a score depend on it."""
    threads = torch.get_num_threads()
    yield
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


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


def paint(width=64, height=48, seed=0):
    """A picture (height, width, 3) of a disc and a bar on noise."""
    noise = np.random.default_rng(seed).integers(90, 120, (height, width, 3), dtype=np.uint8)
    ys, xs = np.mgrid[:height, :width]
    noise[(ys - height // 2) ** 2 + (xs - width // 3) ** 2 < (min(height, width) // 4) ** 2] = (200, 40, 30)
    noise[height // 5 : height // 3, width // 2 :] = (30, 60, 200)
    return noise


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Three good pictures and a damaged one, in a folder."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed, name in enumerate(("alpha", "beta", "gamma")):
        Image.fromarray(paint(64 + 9 * seed, seed=seed)).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes((folder / "alpha.png").read_bytes()[:200])
    return folder
