"""Vocabularies and recipes are kept once; names have versions without holes."""

import pytest

from car.presets import preset
from car.vocabulary import Vocabulary
from db import vocabularies
from db.errors import CursorInvalidError, NotFoundError
from tests.support.rows import together


def words(*labels):
    return Vocabulary.from_words(labels)


def test_equal_vocabularies_are_kept_once_however_many_bring_them_at_once(rows):
    ids = together(*(lambda: rows.do(vocabularies.get_or_create, words("cat", "dog")) for _ in range(8)))
    assert len(set(ids)) == 1
    assert rows.do(vocabularies.get_or_create, words("dog", "cat")) != ids[0]  # the order is part of it
    kept = rows.do(vocabularies.get, ids[0])
    assert kept.vocabulary == words("cat", "dog")
    assert (kept.digest, kept.name) == (words("cat", "dog").digest, None)


def test_recipes_of_the_same_arithmetic_are_kept_once(rows):
    ids = together(*(lambda: rows.do(vocabularies.get_or_create_recipe, preset("demo")) for _ in range(4)))
    other = rows.do(vocabularies.get_or_create_recipe, preset("voc"))
    assert {other} != set(ids)
    assert rows.do(vocabularies.recipe, other).recipe == preset("voc")
    page, cursor = rows.do(vocabularies.recipes, cursor=None, limit=1)
    assert page[0].id == other
    page, cursor = rows.do(vocabularies.recipes, cursor=cursor, limit=1)
    assert ({entry.id for entry in page}, cursor) == (set(ids), None)


def test_a_name_gets_a_new_version_only_for_another_vocabulary(rows):
    entry, other = rows.do(vocabularies.get_or_create, words("a")), rows.do(vocabularies.get_or_create, words("b"))
    numbers = [rows.do(vocabularies.name, number, "defects") for number in (entry, entry, other, other, entry)]
    assert numbers == [1, 1, 2, 2, 3]
    assert rows.do(vocabularies.find, "defects").id == entry
    assert rows.do(vocabularies.find, "defects", 2).vocabulary == words("b")
    assert rows.do(vocabularies.find, "defects", 2).version == 2


def test_versions_named_at_once_have_no_holes_and_no_doubles(rows):
    ids = [rows.do(vocabularies.get_or_create, words(f"word {number}")) for number in range(8)]
    numbers = together(*(lambda number=number: rows.do(vocabularies.name, number, "defects") for number in ids))
    assert sorted(numbers) == list(range(1, 9))


def test_what_is_not_there_is_said_by_name(rows):
    with pytest.raises(NotFoundError, match="'defects'"):
        rows.do(vocabularies.find, "defects")
    entry = rows.do(vocabularies.get_or_create, words("a"))
    rows.do(vocabularies.name, entry, "defects")
    with pytest.raises(NotFoundError, match="'defects' version 7"):
        rows.do(vocabularies.find, "defects", 7)
    with pytest.raises(NotFoundError):
        rows.do(vocabularies.get, rows.do(vocabularies.get_or_create_recipe, preset("demo")))
    with pytest.raises(NotFoundError):
        rows.do(vocabularies.recipe, entry)


def test_pages_hold_each_vocabulary_once_newest_first_with_its_newest_name(rows):
    made = [rows.do(vocabularies.get_or_create, words(f"word {number}")) for number in range(5)]
    for called in ("old", "new"):
        rows.do(vocabularies.name, made[0], called)
    seen, cursor = [], None
    while True:
        page, cursor = rows.do(vocabularies.page, cursor=cursor, limit=2)
        seen += page
        if cursor is None:
            break
    assert [entry.id for entry in seen] == made[::-1]
    assert (seen[-1].name, seen[-1].version, seen[0].name) == ("new", 1, None)
    with pytest.raises(CursorInvalidError):
        rows.do(vocabularies.recipes, cursor="nonsense", limit=2)


def test_words_of_many_tasks_are_kept_in_the_order_given(rows):
    words = [Vocabulary.from_words([name]) for name in ("c", "a", "b", "a")]
    kept = rows.do(vocabularies.get_or_create_many, words)
    assert kept == [rows.do(vocabularies.get_or_create, entry) for entry in words]
    assert rows.do(vocabularies.get_or_create_many, []) == []
