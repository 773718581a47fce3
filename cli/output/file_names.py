"""File names made of words and paths: safe on every file system, and never two alike."""

import re
import unicodedata
from collections.abc import Iterable

_MOST_BYTES = 120
# Names that Windows keeps for devices, with any ending.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def safe_name(word: str) -> str:
    """The word with what a file name cannot hold replaced: letters and digits of any script, `.`, `_` and `-` stay."""
    plain = unicodedata.normalize("NFC", word)
    name = re.sub(r"[^\w.-]+", "-", plain.encode("utf-8", "replace").decode()).strip(".-")
    name = name.encode()[:_MOST_BYTES].decode("utf-8", "ignore")
    return f"_{name}" if _RESERVED.fullmatch(name) else name or "_"


def distinct_names(words: Iterable[str]) -> list[str]:
    """A safe name a word, in order; words that would share one get -2, -3, ... Upper case tells no names apart."""
    taken: set[str] = set()
    names = []
    for word in words:
        stem = name = safe_name(word)
        again = 2
        while name.casefold() in taken:
            name = f"{stem}-{again}"
            again += 1
        taken.add(name.casefold())
        names.append(name)
    return names
