"""A cursor leads on where its page ended, and nowhere else: whatever else is sent is refused, never misread."""

import base64
import json
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.errors import CursorInvalidError
from db.pagination import Cursor

KEYS = st.one_of(
    st.text(st.characters(categories=["L", "N", "P"])),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def packed(document):
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


def marked(*keys, list_name="jobs"):
    """As a stranger would make one who has read the code."""
    mark = json.loads(base64.urlsafe_b64decode(Cursor(list_name).write("x") + "=="))[0]
    return packed([mark, *keys])


@given(st.lists(KEYS, min_size=1, max_size=3))
def test_what_was_written_is_read(keys):
    cursor = Cursor("jobs").write(*keys)
    assert Cursor("jobs").read(cursor) == keys
    assert cursor.isascii()
    assert not set(cursor) & set("+/=&?# ")


def test_ids_and_numbers_are_read_as_such():
    number = uuid4()
    assert Cursor("jobs").read_id(Cursor("jobs").write(str(number))) == number
    assert Cursor("jobs").read_number(Cursor("jobs").write(7)) == 7


def test_a_cursor_of_another_list_or_filter_is_refused():
    with pytest.raises(CursorInvalidError, match="another list or to other filters; start without a cursor"):
        Cursor("results label=cat").read(Cursor("results label=dog").write(7))


@pytest.mark.parametrize(
    "key",
    [True, None, [], {}, float("nan"), float("inf"), 2**63, -(2**63) - 1, 10**400, "nul\0", "half\ud800", "line\n"],
    ids=repr,
)
def test_a_key_that_no_row_can_have_is_refused(key):
    for read in (Cursor("jobs").read, Cursor("jobs").read_id, Cursor("jobs").read_number):
        with pytest.raises(CursorInvalidError):
            read(marked(key))


@pytest.mark.parametrize("key", ["7", 7.0, "", "no id"])
def test_a_key_of_another_kind_is_refused(key):
    with pytest.raises(CursorInvalidError):
        Cursor("jobs").read_number(marked(key))
    with pytest.raises(CursorInvalidError):
        Cursor("jobs").read_id(marked(key))


def refused_or(read, cursor, kind):
    try:
        actual = read(cursor)
    except CursorInvalidError:
        return
    assert isinstance(actual, kind)


@given(st.one_of(st.text(), st.text(st.characters(codec="ascii")), ANYTHING.map(packed), ANYTHING.map(marked)))
def test_nothing_that_is_sent_raises_anything_else(cursor):
    refused_or(Cursor("jobs").read, cursor, list)
    refused_or(Cursor("jobs").read_id, cursor, UUID)
    refused_or(Cursor("jobs").read_number, cursor, int)


@given(st.integers(0, 2**62), st.data())
def test_a_damaged_cursor_is_refused_or_leads_to_a_number(number, data):
    cursor = Cursor("jobs").write(number)
    at = data.draw(st.integers(0, len(cursor) - 1))
    damaged = cursor[:at] + data.draw(st.characters()) + cursor[at + data.draw(st.integers(0, 2)) :]
    refused_or(Cursor("jobs").read_number, damaged, int)


def test_a_cursor_nested_deeper_than_any_reader_goes_is_refused():
    for depth in (5_000, 500_000):
        with pytest.raises(CursorInvalidError):
            Cursor("jobs").read(base64.urlsafe_b64encode(b"[" * depth).decode())
