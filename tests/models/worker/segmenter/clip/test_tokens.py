"""Token ids that the encoder feeds to CLIP: for OpenAI's merges those of OpenAI's tokenizer, for over 300 texts."""

import json
from pathlib import Path

import pytest
import torch
from transformers import CLIPTokenizer

from car.clip_tokenizer import byte_alphabet, openai_merges, tokenizer_of
from worker.models.weights import OPENAI, load_encoder, tokenizer_merges

ROOT = Path(__file__).parents[5]
RECORDED = json.loads((ROOT / "tests/unit/car/clip_tokens.json").read_text())
WEIGHTS = ROOT / "demo/weights/proposal"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("openai")
    merges = openai_merges().split("\n")[:-1]
    letters = byte_alphabet()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(pair.replace(" ", "") for pair in merges)]
    ids = {token: index for index, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("#version: 0.2\n" + openai_merges())
    (folder / "tokenizer_config.json").write_bytes((WEIGHTS / "tokenizer_config.json").read_bytes())
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def encoder_with(tokenizer):
    encoder = load_encoder(WEIGHTS, device=torch.device("cpu"))
    encoder.tokenizer = tokenizer
    return encoder


def test_the_encoder_reads_texts_as_openai_does(tokenizer):
    rows = encoder_with(tokenizer).tokens([text for text, _ in RECORDED]).tolist()
    read = [[49406, *ids, 49407] for _, ids in RECORDED]
    assert [text for (text, _), row, ids in zip(RECORDED, rows, read, strict=True) if row[: len(ids)] != ids] == []


def test_merges_of_openai_are_recognized(tokenizer):
    assert tokenizer_merges(encoder_with(tokenizer)) == OPENAI


def test_another_tokenizer_is_counted_alike_from_its_merges():
    own = CLIPTokenizer.from_pretrained(WEIGHTS, local_files_only=True)
    counter = tokenizer_of(tokenizer_merges(encoder_with(own)))
    texts = [text for text, _ in RECORDED if counter.count(text) <= 77]
    assert len(texts) > 200
    rows = encoder_with(own).tokens(texts)
    assert [1 + int((row == own.eos_token_id).int().argmax()) for row in rows] == [counter.count(t) for t in texts]
