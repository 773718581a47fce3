"""Control characters are visible wherever a terminal shows what a user sent."""

from car.printable import printable, printable_lines
from cli.output.job_tables import items_table, print_table


def test_escapes_are_visible_and_letters_stay() -> None:
    assert printable("a\x1b[2J\u202eé\n") == "a\\x1b[2J\\u202eé\\n"


def test_lines_keep_their_breaks() -> None:
    assert printable_lines("a\x1b\nb\r") == "a\\x1b\nb\\r"


def test_a_table_never_sends_the_escapes_in_a_key(capsys) -> None:  # type: ignore[no-untyped-def]
    item = {"uri": "s3://b/\x1b[2Jx.png", "state": "done", "attempt": 1, "result": None, "error": None}
    print_table(items_table([item]))  # type: ignore[list-item]
    written = capsys.readouterr().out
    assert "\x1b" not in written
    assert "\\x1b[2Jx.png" in written
