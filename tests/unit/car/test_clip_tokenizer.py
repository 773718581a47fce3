"""CLIP's text cleaning and tokens: those of OpenAI's tokenizer, recorded in clip_tokens.json, for over 300 texts."""

import json
from itertools import combinations
from pathlib import Path

import pytest

from car.clip_tokenizer import CONTEXT, ClipTokenizer, clean_text, tokenizer_of
from car.errors import VocabularyError
from car.vocabulary import Vocabulary, parse_labels_file

RECORDED = [(text, ids) for text, ids in json.loads(Path(__file__).with_name("clip_tokens.json").read_text())]


def test_token_ids_equal_those_of_openai():
    assert len(RECORDED) > 300
    assert [text for text, ids in RECORDED if tokenizer_of().token_ids(text)[1:-1] != ids] == []


def test_the_count_is_the_number_of_ids():
    assert [text for text, ids in RECORDED if tokenizer_of().count(text) != len(ids) + 2] == []


def test_texts_are_the_same_word_exactly_if_their_tokens_are_equal():
    for (one, ids), (other, other_ids) in combinations(RECORDED, 2):
        assert (clean_text(one) == clean_text(other)) == (ids == other_ids), (one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ice cream", "ice  cream"),
        ("café", "cafe\u0301"),
        ("it’s", "it's"),
        ("salt &amp; pepper", "salt & pepper"),
        ("ﬁsh", "fish"),
        ("ＡＢＣ", "abc"),
        ("\ufeffcat", "cat"),
    ],
)
def test_words_that_clip_reads_alike_are_refused_as_duplicates(one, other):
    with pytest.raises(VocabularyError, match="occurs twice"):
        Vocabulary.from_words([one, other])


def test_words_that_clip_reads_differently_are_different_labels():
    words = ["straße", "strasse", "کتاب‌ها", "کتابها", "क्‍ष", "क्ष", "soft\u00adhyphen", "softhyphen"]
    assert len(Vocabulary.from_words(words).names) == len(words)


@pytest.mark.parametrize("word", ["a\x07b", "a\x00", "\ud800"])
def test_control_characters_are_refused(word):
    with pytest.raises(VocabularyError, match="control character"):
        Vocabulary.from_words([word])


def test_a_special_token_is_refused():
    with pytest.raises(VocabularyError, match="special token"):
        Vocabulary.from_words(["cat <|endoftext|>"])


def test_white_space_within_a_name_is_collapsed():
    assert Vocabulary.from_words(["ice\u00a0 \t cream"]).names == ("ice cream",)


def test_a_line_that_begins_with_a_number_sign_is_a_comment():
    assert [label.name for label in parse_labels_file("# animals\ncat\n#dog\n")] == ["cat"]


@pytest.mark.parametrize("what", ["label", "prompt", "background"])
def test_a_text_beyond_the_context_is_named(what):
    long = "x1 " * 60
    vocabulary = {
        "label": lambda: Vocabulary.from_words(["cat", long]),
        "prompt": lambda: Vocabulary.from_words([{"name": "cat", "prompts": ["cat", long]}]),
        "background": lambda: Vocabulary.from_words(["cat"], background=["sky", long]),
    }[what]()
    with pytest.raises(VocabularyError, match=f"{what}.*x1 x1.* tokens in its template, but CLIP reads 77"):
        vocabulary.check_tokens(tokenizer_of())


def test_the_bound_holds_for_the_longest_template_exactly():
    tokenizer = tokenizer_of()
    templates = [*Vocabulary.from_words(["x"]).classifier_templates]
    fits = max(n for n in range(1, CONTEXT) if max(tokenizer.count(t.format("a " * n)) for t in templates) <= CONTEXT)
    Vocabulary.from_words(["a " * fits]).check_tokens(tokenizer)
    with pytest.raises(VocabularyError):
        Vocabulary.from_words(["a " * (fits + 1)]).check_tokens(tokenizer)


def test_another_model_counts_with_its_own_merges():
    letters = ClipTokenizer(())
    assert letters.count("cat") == 5
    with pytest.raises(VocabularyError):
        Vocabulary.from_words(["a rather long label that the merges of OpenAI read in very few tokens"]).check_tokens(
            letters
        )
