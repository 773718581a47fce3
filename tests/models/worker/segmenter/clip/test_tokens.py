"""Token ids that the encoder feeds to CLIP: for OpenAI's merges those of OpenAI's tokenizer, for over 300 texts."""

import json
from pathlib import Path

import pytest
import torch
from transformers import CLIPTokenizer

from car.clip_tokenizer import clean_text, tokenizer_of
from tests.support.clips import write_clip
from worker.errors import WeightsInvalidError
from worker.models.weights import OPENAI, load_encoder, tokenizer_merges

ROOT = Path(__file__).parents[5]
RECORDED = json.loads((ROOT / "tests/unit/car/clip_tokens.json").read_text())
WEIGHTS = ROOT / "demo/weights/proposal"


@pytest.fixture(scope="module")
def encoder():
    return load_encoder(WEIGHTS, device=torch.device("cpu"))


def test_the_encoder_reads_texts_as_openai_does(encoder, monkeypatch):
    monkeypatch.setattr(encoder, "tokenizer", tokenizer_of())
    rows = encoder.tokens([text for text, _ in RECORDED]).tolist()
    read = [[49406, *ids, 49407] for _, ids in RECORDED]
    assert [text for (text, _), row, ids in zip(RECORDED, rows, read, strict=True) if row[: len(ids)] != ids] == []
    assert tokenizer_merges(encoder) == OPENAI


def test_the_tokenizer_of_a_folder_gives_the_ids_of_transformers(encoder):
    theirs = CLIPTokenizer.from_pretrained(WEIGHTS, local_files_only=True)
    texts = [text for text, _ in RECORDED if encoder.tokenizer.count(text) <= 77]
    assert len(texts) > 200
    expected = theirs([clean_text(text) for text in texts], padding=False)["input_ids"]
    assert [encoder.tokenizer.token_ids(text) for text in texts] == expected
    assert [tokenizer_of(tokenizer_merges(encoder)).count(text) for text in texts] == [len(row) for row in expected]


@pytest.mark.parametrize("vocab", ["{", '{"a": 1}', "[]"])
def test_a_vocabulary_with_other_ids_than_its_merges_is_refused(tmp_path, vocab):
    write_clip(tmp_path / "clip", layers=1, patch=16, image_size=32, seed=1)
    (tmp_path / "clip" / "vocab.json").write_text(vocab)
    with pytest.raises(WeightsInvalidError, match=r"vocab\.json|tokenizer"):
        load_encoder(tmp_path / "clip", device=torch.device("cpu"))
