import json
from pathlib import Path

import pytest

from car.model_cards import CARD, ModelCard, badge, read_card, vocabulary_warnings
from car.vocabulary import Vocabulary, parse_labels, parse_labels_file

DEMO = Path("demo")
SHAPES = ModelCard("shapes", ("red circle", "blue square"), "the shapes models know two words")
ANY = ModelCard("openai/clip-vit-base-patch16")


def words(text):
    return Vocabulary(tuple(parse_labels(text)))


def test_the_embedded_models_card_names_the_words_of_their_labels_file():
    labels = parse_labels_file((DEMO / "labels.txt").read_text())
    for role in ("proposal", "classifier", "sam"):
        card = read_card(DEMO / "weights" / role, "unused")
        assert card.name == "demo"
        assert list(card.words) == [label.name for label in labels]
        assert "photographs need real CLIP weights" in card.note


def test_an_unknown_word_is_named_with_the_nearest_known_one():
    assert vocabulary_warnings([SHAPES, SHAPES], words("red circl,cat,Blue  Square")) == [
        "the shapes models know two words",
        "'red circl' is unknown to the shapes models: its masks and scores mean nothing; did you mean 'red circle'?",
        "'cat' is unknown to the shapes models: its masks and scores mean nothing",
    ]


def test_known_words_leave_the_note_alone():
    assert vocabulary_warnings([SHAPES], words("red circle")) == ["the shapes models know two words"]
    assert badge([SHAPES], words("red circle")) == "models: shapes, 2 words"


def test_models_that_know_any_word_say_nothing():
    assert vocabulary_warnings([ANY], words("cat")) == []
    assert badge([ANY], words("cat")) == ""


def test_of_many_unknown_words_a_few_are_named_and_all_are_counted():
    many = words(",".join(f"thing {number}" for number in range(40)))
    warnings = vocabulary_warnings([SHAPES], many)
    assert len(warnings) == 7
    assert warnings[-1] == "35 more words are unknown to the shapes models"
    assert badge([SHAPES], many).endswith("'thing 4' and 35 more")


def test_every_prompt_of_a_label_counts():
    labels = parse_labels_file('{"name": "ball", "prompts": ["red circle", "football"]}')
    assert SHAPES.unknown_words(Vocabulary(tuple(labels))) == {"football": None}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"name": "x", "words": 3, "note": ""}', "\\udcff"])
def test_weights_with_an_unreadable_card_are_weights_without_one(tmp_path, content):
    folder = tmp_path / "proposal"
    folder.mkdir()
    (folder / CARD).write_text(content)
    assert read_card(folder, "mine/proposal") == ModelCard("mine/proposal")


def test_a_card_may_lie_in_the_folder_of_the_pair(tmp_path):
    (tmp_path / "classifier").mkdir()
    (tmp_path / CARD).write_text(json.dumps(SHAPES.to_json()))
    assert read_card(tmp_path / "classifier", "x") == SHAPES
