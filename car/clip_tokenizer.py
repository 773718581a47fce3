"""CLIP's text cleaning and byte-pair encoding, without torch: the same token ids as OpenAI's tokenizer.

Source: `clip/simple_tokenizer.py` of openai/CLIP. `data/clip_merges.txt.gz` holds its merges (MIT licence).
"""

import gzip
import html
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from importlib import resources
from itertools import pairwise
from typing import Final, Self

CONTEXT: Final = 77
"""Tokens that CLIP's text tower reads, start and end included."""
OPENAI: Final = "openai"
WORD_END: Final = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"
SPECIAL_TOKENS: Final = (START, END)
_FIXED_TOKENS: Final = re.compile(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d")
_CACHED_WORDS: Final = 20_000


def clean_text(text: str) -> str:
    """Return text as CLIP was trained on it: ftfy, HTML entities decoded twice, white space collapsed, lower case."""
    if not (text.isascii() and text.isprintable() and "&" not in text):
        import ftfy  # noqa: PLC0415 - takes a tenth of a second, and most texts do not need it

        text = ftfy.fix_text(text)
    return " ".join(html.unescape(html.unescape(text)).split()).lower()


@cache
def _byte_letters() -> dict[int, str]:
    """Return the printable character that stands for each byte, in the order of CLIP's token ids."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + number) for number, byte in enumerate(others)}


def byte_alphabet() -> list[str]:
    """Return the 256 printable characters that stand for bytes, in the order of CLIP's token ids."""
    return list(_byte_letters().values())


@dataclass(frozen=True)
class ClipTokenizer:
    """A byte-pair encoding in CLIP's format."""

    merges: tuple[tuple[str, str], ...]
    """Pairs to join, the most frequent first."""
    _parts: dict[str, tuple[str, ...]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_text(cls, merges: str) -> Self:
        """Parse the lines `a b` of a merges.txt; a first line `#version` is skipped."""
        lines = [line.split(" ") for line in merges.split("\n") if line and not line.startswith("#version")]
        return cls(tuple((first, second) for first, second in lines))

    def token_ids(self, text: str) -> list[int]:
        """Return the ids of the cleaned text, start and end included."""
        ids = self.ids
        return [ids[START], *(ids[part] for word in _words(clean_text(text)) for part in self._split(word)), ids[END]]

    def count(self, text: str) -> int:
        """Return how many tokens the text has, start and end included."""
        return 2 + sum(len(self._split(word)) for word in _words(clean_text(text)))

    @property
    def end_id(self) -> int:
        return self.ids[END]

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each token, as vocab.json has them."""
        letters = byte_alphabet()
        merged = (first + second for first, second in self.merges)
        tokens = [*letters, *(letter + WORD_END for letter in letters), *merged, START, END]
        return {token: index for index, token in enumerate(tokens)}

    @cached_property
    def _ranks(self) -> dict[tuple[str, str], int]:
        return {pair: rank for rank, pair in enumerate(self.merges)}

    def _split(self, word: str) -> tuple[str, ...]:
        if word in (START, END):
            return (word,)
        if word not in self._parts:
            if len(self._parts) >= _CACHED_WORDS:
                self._parts.clear()
            self._parts[word] = self._merged(word)
        return self._parts[word]

    def _merged(self, word: str) -> tuple[str, ...]:
        letters = _byte_letters()
        symbols = [letters[byte] for byte in word.encode(errors="replace")]
        symbols[-1] += WORD_END
        while len(symbols) > 1:
            best = min(pairwise(symbols), key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            joined: list[str] = []
            for symbol in symbols:
                if joined and (joined[-1], symbol) == best:
                    joined[-1] += symbol
                else:
                    joined.append(symbol)
            symbols = joined
        return tuple(symbols)


@cache
def openai_merges() -> str:
    """Return the merges of all CLIPs of OpenAI, one per line."""
    return gzip.decompress(resources.files("car").joinpath("data/clip_merges.txt.gz").read_bytes()).decode()


@lru_cache(maxsize=4)
def tokenizer_of(merges: str = OPENAI) -> ClipTokenizer:
    """Return the tokenizer with these merges, or OpenAI's."""
    return ClipTokenizer.from_text(openai_merges() if merges == OPENAI else merges)


def _words(text: str) -> Iterator[str]:
    """Split like the pattern of CLIP's tokenizer: contractions, runs of letters, single digits, runs of other marks."""
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        match = _FIXED_TOKENS.match(text, position)
        kind = _kind(text[position])
        end = match.end() if match else position + 1
        if match is None and kind != "N":
            while end < len(text) and _kind(text[end]) == kind:
                end += 1
        yield text[position:end]
        position = end


def _kind(character: str) -> str:
    """Return L for letters, N for numbers, a space for white space and an empty text for all others."""
    if character.isspace():
        return " "
    category = unicodedata.category(character)[0]
    return category if category in "LN" else ""
