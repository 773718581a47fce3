"""Globs match as a shell's do, are refused in words, and cost the same whatever they hold."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car.errors import SourceError
from car.key_glob import MAX_BYTES, MAX_DEPTH, KeyGlob

PAGE, LONGEST_KEY = 1_000, 1_024


@pytest.mark.parametrize(
    ("glob", "matching", "others"),
    [
        ("*.jpg", ["a.jpg", ".jpg", "a b.jpg", "line\n.jpg"], ["a/b.jpg", "a.jpgx", "a.JPG"]),
        ("**/*.jpg", ["a.jpg", "x/a.jpg", "x/y/a.jpg"], ["a.png"]),
        ("**/**/**/a", ["a", "x/a", "x/y/a"], ["xa"]),
        ("x/**", ["x/a", "x/y/a"], ["x", "y/a"]),
        ("x**y", ["xy", "x/y", "xaay"], ["xyz"]),
        ("a?c", ["abc", "a\nc", "a猫c", "a😀c"], ["ac", "a/c", "abbc"]),
        ("a[bc]d", ["abd", "acd"], ["aad", "abcd"]),
        ("a[b-d]", ["ab", "ad"], ["aa", "a-"]),
        ("[а-я]", ["ж"], ["z", "Ж"]),
        ("[a-😀]", ["b", "ж", "😀"], ["A"]),
        ("a[!b]c", ["aac", "a😀c"], ["abc", "a/c"]),
        ("a[^b]c", ["aac", "a^c"], ["abc"]),
        ("[]]", ["]"], ["[", ""]),
        ("[[]a]", ["[a]"], ["a"]),
        ("a[/]b", [], ["a/b", "a[/]b"]),
        ("a[!/]b", ["a.b"], ["a/b"]),
        ("a[.-0]b", ["a.b", "a0b"], ["a/b"]),
        ("[&&~|b]", ["&", "~", "|", "b"], ["a"]),
        ("[\\d]", ["\\", "d"], ["1"]),
        ("{a,b}.jpg", ["a.jpg", "b.jpg"], ["c.jpg", "{a,b}.jpg"]),
        ("{a,{b,c}d}", ["a", "bd", "cd"], ["b", "d"]),
        ("{x/**,y}/*.jpg", ["x/a/b.jpg", "y/a.jpg"], ["z/a.jpg"]),
        ("{,a}b*", ["b", "ab", "abc"], ["aab"]),
        ("a}b,c*", ["a}b,c", "a}b,cd"], ["ab"]),
        ("a.b+(c)$*", ["a.b+(c)$"], ["aXb+(c)$"]),
        ("100%*", ["100%", "100%25"], ["100"]),
        ("", [""], ["a"]),
        ("*\0*", ["\0", "a\0b"], ["", "ab", "\n"]),
    ],
)
def test_a_glob_names_what_a_shell_would(glob, matching, others):
    keys = [*matching, *others]
    assert KeyGlob.parse(glob).matches(keys) == [key in matching for key in keys]


def test_no_keys_match_nothing():
    assert KeyGlob.parse("**").matches([]) == []


def backtracking(glob):
    """The same glob as a regular expression, by which short ones can be matched."""
    parts, depth = [], 0
    for token in re.finditer(r"\*\*/|\*\*|\[(.[^]]*)\]|.", glob, re.DOTALL):
        text, letters = token[0], token[1]
        if letters:
            negated = letters[0] in "!^"
            ranges = re.sub(r"[^-]", lambda letter: re.escape(letter[0]), letters[negated:])
            parts.append(f"(?!/)[{'^' if negated else ''}{ranges}]" if ranges else "[^/]")
        elif text == "{" or (depth and text in "},"):
            parts.append({"{": "(?:", "}": ")", ",": "|"}[text])
            depth += (text == "{") - (text == "}")
        else:
            parts.append({"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(text, re.escape(text)))
    return re.compile("".join(parts), re.DOTALL)


ELEMENTS = ["a", "b", "/", "é", "*", "**", "**/", "?", "{", ",", "}", "[ab]", "[!a]", "[^/]", "[a-c]", "[]]", "{a,*}"]


@given(
    st.lists(st.sampled_from(ELEMENTS), max_size=8).map("".join),
    st.lists(st.text(st.sampled_from("aab/]é猫"), max_size=8), max_size=20),
)
def test_keys_match_as_by_trying_every_way(glob, keys):
    try:
        pattern = backtracking(glob)
    except re.error:  # a brace that is not closed
        with pytest.raises(SourceError):
            KeyGlob.parse(glob)
        return
    assert KeyGlob.parse(glob).matches(keys) == [pattern.fullmatch(key) is not None for key in keys]


@pytest.mark.parametrize(
    ("glob", "advice"),
    [
        ("{" * (MAX_DEPTH + 1) + "}" * (MAX_DEPTH + 1), f"{MAX_DEPTH} deep .* manifest"),
        ("*" * (MAX_BYTES + 1), f"{MAX_BYTES} bytes .* manifest"),
        ("猫" * (MAX_BYTES // 2), f"{MAX_BYTES} bytes .* manifest"),
        ("{a,b", r"opens a \{"),
        ("{a,{b}", r"opens a \{"),
        ("[a", r"opens a \["),
        ("[]", r"opens a \["),
        ("[z-a]", "runs backwards"),
        ("[a--]", "runs backwards"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_way_out(glob, advice):
    with pytest.raises(SourceError, match=advice):
        KeyGlob.parse(glob)


def as_long(unit, length, end=""):
    """As much of the unit as the bytes hold."""
    return unit * ((length - len(end)) // len(unit.encode())) + end


GREEK = "".join(map(chr, range(0x370, 0x370 + 255)))
COSTLY = {
    "seconds for one key, by backtracking": ("**?" * 9 + ".jpx", "a"),
    "in braces": ("{" + "**?" * 9 + ".jpx,y}", "a"),
    "many **": (as_long("**?", MAX_BYTES), "a"),
    "many *": (as_long("*a", MAX_BYTES, "b"), "a"),
    "many **/": (as_long("**/*", MAX_BYTES, "b"), "a/"),
    "? after *": ("*a" + "?" * (MAX_BYTES - 3) + "b", "a"),
    "many braces": (as_long("{**,*a}", MAX_BYTES, "b"), "a"),
    "nested braces": ("{**a," * MAX_DEPTH + "**a" + "}" * MAX_DEPTH + "b", "a"),
    "many brackets": (as_long("[!b]", MAX_BYTES), "a"),
    "many characters": (f"**{GREEK}", GREEK),
}


@pytest.mark.parametrize(("glob", "unit"), COSTLY.values(), ids=COSTLY)
def test_no_glob_holds_a_page_of_the_longest_keys_up(glob, unit):
    read = KeyGlob.parse(glob)
    keys = [as_long(unit, LONGEST_KEY)] * PAGE
    began = time.process_time()
    read.matches(keys)
    assert time.process_time() - began < 0.5  # 0.02 to 0.09 s on a machine at rest
