"""The name linter refuses retired words as whole names, and the code has none."""

import importlib.util
from pathlib import Path

import pytest

from tests.support.paths import ROOT

spec = importlib.util.spec_from_file_location("check_names", ROOT / ".ci" / "check_names.py")
check_names = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_names)

GLOSSARY = """
| lane | not in the table below |

## Retired words

| retired | use instead |
|---|---|
| lane, lanes | priority |
| keep_all (of vocabularies) | get_or_create_many |
| Wish | TaskRequest |
"""


@pytest.fixture
def refused(tmp_path):
    """Return what is refused in a file of this text, as (kind, name, instead)."""

    def check(text, path="package/module.py"):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        words = check_names.retired_words(GLOSSARY)
        return [
            (name.kind, name.name, name.instead) for name in check_names.refused_names(tmp_path, [Path(path)], words)
        ]

    return check


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("class Lane: ...", "class", "Lane"),
        ("def lanes(): ...", "function", "lanes"),
        ("async def _lane(): ...", "function", "_lane"),
        ("def f(*, lane): ...", "parameter", "lane"),
        ("class A:\n    lane: int", "field", "lane"),
        ("class A:\n    LANES = 1", "field", "LANES"),
        ("class KeepAll: ...", "class", "KeepAll"),
        ("def keep_all(): ...", "function", "keep_all"),
        ("class Wish: ...", "class", "Wish"),
    ],
)
def test_a_retired_word_is_refused_in_each_place_and_spelling(refused, text, kind, name):
    [(found_kind, found_name, instead)] = refused(text)
    assert (found_kind, found_name) == (kind, name)
    assert instead in ("priority", "get_or_create_many", "TaskRequest")


def test_a_module_and_a_folder_are_refused(refused):
    assert [name[:2] for name in refused("", "lanes/lane.py")] == [("module", "lanes"), ("module", "lane")]


@pytest.mark.parametrize(
    "text",
    [
        "def airplane(): ...",
        "def priority_lane(): ...",
        "lane = 1",
        "def keep(): ...",
        "x.lane()",
        "def wish(): ...",
        '"lane"',
    ],
)
def test_parts_of_names_and_other_uses_pass(refused, text):
    assert refused(text) == []


def test_the_glossary_is_read_and_a_refusal_says_what_to_use():
    words = check_names.retired_words((ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"))
    assert words["lane"] == "priority"
    assert len(words) > 40
    refusal = check_names.RefusedName(Path("a.py"), 3, "field", "lane", words["lane"])
    assert str(refusal) == "a.py:3: field 'lane' is a retired word: use priority (docs/glossary.md)"


def test_no_name_of_this_repository_is_retired(capsys):
    assert check_names.main(ROOT) == 0, capsys.readouterr().out
