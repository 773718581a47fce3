"""File names made of words are safe everywhere and never two alike."""

from hypothesis import given
from hypothesis import strategies as st

from cli.output.result_files import distinct_names, safe_name


@given(st.lists(st.text(max_size=300), max_size=30))
def test_names_are_distinct_even_where_case_does_not_count(words):
    names = distinct_names(words)
    assert len(names) == len(words)
    assert len({name.casefold() for name in names}) == len(words)


@given(st.text(max_size=300))
def test_no_word_leaves_its_folder_or_hides(word):
    name = safe_name(word)
    assert name
    assert not {"/", "\\", "\0", ":", "\n"} & set(name)
    assert not name.startswith((".", "-"))
    assert len(name.encode()) <= 130


def test_names_stay_readable():
    assert distinct_names(["red car", "Red Car", "red/car", "強い犬", "", "CON"]) == [
        "red-car", "Red-Car-2", "red-car-3", "強い犬", "_", "_CON",
    ]  # fmt: skip
