"""Vocabularies: what can be asked for, and the words in which the rest is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car.clip_tokenizer import clean_text
from car.errors import VocabularyError
from car.recipe import Mode
from car.text_data import BACKGROUNDS, CLASSIFIER_TEMPLATES, COCO_QUERIES, VOC_QUERIES
from car.vocabulary import Label, Vocabulary, background_words, parse_labels, parse_labels_file


def test_labels_keep_their_order_and_stand_for_themselves() -> None:
    vocabulary = Vocabulary.from_words(["rusty bolt", "pepsi can"])
    assert vocabulary.names == ("rusty bolt", "pepsi can")
    assert vocabulary.labels[0].prompts == ("rusty bolt",)


def test_a_label_may_have_several_prompts() -> None:
    label = Vocabulary.from_words([{"name": "car", "prompts": ["car", "automobile"]}]).labels[0]
    assert label == Label("car", ("car", "automobile"))
    assert label.text == "car | automobile"


def test_the_shipped_words_are_the_official_ones() -> None:
    assert len(BACKGROUNDS["shipped"]) == 23
    assert len(CLASSIFIER_TEMPLATES) == 15
    assert sum(template.endswith(".") for template in CLASSIFIER_TEMPLATES) == 11
    assert (len(VOC_QUERIES), len(COCO_QUERIES)) == (20, 80)
    assert "person with clothes,people,human" in VOC_QUERIES


def test_the_groups_of_the_papers_ablation_can_be_joined() -> None:
    words = background_words("terrestrial+aquatic-atmospheric+man-made")
    assert len(BACKGROUNDS["terrestrial"]) == 32
    assert (
        len(words)
        == len(set(words))
        == sum(len(BACKGROUNDS[g]) for g in ("terrestrial", "aquatic-atmospheric", "man-made"))
    )
    assert background_words("none") == ()


def test_referring_expressions_have_no_classifier_templates() -> None:
    assert Vocabulary.from_words(["the left dog"], mode=Mode.REFER).classifier_templates == ()


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([], "the vocabulary is empty"),
        (["cat", "dog", "cat"], "label 'cat' occurs twice"),
        (["cat", "Cat"], "label 'Cat' occurs twice, also as 'cat': CLIP reads both as 'cat'"),
        (["cat", "  "], r"label '  ' is empty"),
        (["x" * 201], "has 201 characters, at most 200"),
        (["a\tb\x07"], "control character"),
        ([f"word {i}" for i in range(2001)], "2001 labels are too many"),
        ([{"name": "car", "prompts": ["auto", "auto"]}], "prompt 'auto' occurs twice"),
        ([{"name": "car", "prompts": ["bus"]}, "bus"], "prompt 'bus' occurs twice"),
        ([{"title": "car"}], "must look like"),
        ([{"name": "car", "prompts": "car"}], "must look like"),
        ([{"name": "car", "prompts": [3]}], "prompt of label 'car' 3 is empty"),
    ],
)
def test_a_word_that_cannot_be_used_is_named(labels: list[object], says: str) -> None:
    with pytest.raises(VocabularyError, match=says):
        Vocabulary.from_words(labels)  # type: ignore[arg-type]


def test_2000_labels_are_allowed() -> None:
    assert len(Vocabulary.from_words([f"word {i}" for i in range(2000)]).labels) == 2000


@pytest.mark.parametrize("template", ["a photo", "{} and {}"])
def test_a_template_holds_the_word_once(template: str) -> None:
    with pytest.raises(VocabularyError, match="exactly once"):
        Vocabulary((Label("cat"),), cam_template=template)


def test_an_unknown_background_list_is_answered_with_the_known_ones() -> None:
    with pytest.raises(VocabularyError, match="known lists: shipped, terrestrial"):
        Vocabulary.from_words(["cat"], background="heavenly")


def test_a_comma_separates_labels_and_a_line_may_hold_one() -> None:
    assert [label.name for label in parse_labels("cat, red car")] == ["cat", "red car"]
    labels = parse_labels_file('cat\n\nperson with clothes,people,human\n{"name": "bike", "prompts": ["bicycle"]}\n')
    assert [label.name for label in labels] == ["cat", "person with clothes,people,human", "bike"]
    assert labels[2].prompts == ("bicycle",)


@pytest.mark.parametrize(
    ("text", "says"), [("cat\n{", "line 2 of the labels file is not valid JSON"), ("{}", "line 1")]
)
def test_a_bad_line_is_named_by_its_number(text: str, says: str) -> None:
    with pytest.raises(VocabularyError, match=says):
        parse_labels_file(text)


WORDS = st.lists(
    st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8),
    min_size=1,
    max_size=8,
    unique_by=clean_text,
)


@given(WORDS)
def test_the_digest_sees_words_and_order(words: list[str]) -> None:
    vocabulary = Vocabulary.from_words(words)
    assert Vocabulary.from_words(list(words)).digest == vocabulary.digest
    assert Vocabulary.from_words([*words, "one more word"]).digest != vocabulary.digest
    if len(words) > 1:
        assert Vocabulary.from_words(words[::-1]).digest != vocabulary.digest
    assert Vocabulary.from_words(words, background="none").digest != vocabulary.digest
