"""Globs over S3 keys, matched without backtracking.

Many keys are matched at once, laid end to end. A set of positions in that text is an integer with a bit for each, and
an element of the glob turns the positions where it may begin into those where it may end, by a few operations on
integers. The work is the length of the glob times the length of the keys, whatever either holds.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate
from typing import Self

import numpy as np
from numpy.typing import NDArray

from car.errors import SourceError

MAX_BYTES = 512
"""Of a glob: a page of the longest keys is then matched in less than 0.1 s."""
MAX_DEPTH = 8
"""Braces within braces."""
_INSTEAD = "split it into several jobs, or list the addresses in a manifest"
_TOKEN = re.compile(r"\*\*/|\*\*|\[(?P<letters>.[^]]*)\]|.", re.DOTALL)
_RANGE = re.compile(r"(.)-(.)|(.)", re.DOTALL)


class _Wildcard(Enum):
    WITHIN_FOLDER = "*"
    ACROSS_FOLDERS = "**"
    FOLDERS = "**/"
    """Any number of folders, none too."""


@dataclass(frozen=True)
class _Letter:
    """One character of these ranges or, if negated, of none of them."""

    ranges: tuple[tuple[str, str], ...]
    negated: bool = False
    slash: bool = False
    """Whether it may be a slash: only where the glob itself writes one."""


@dataclass(frozen=True)
class _Alternatives:
    branches: "list[list[_Element]]"


_Element = _Letter | _Wildcard | _Alternatives


@dataclass(frozen=True)
class KeyGlob:
    """A glob: `*` and `?` stay within a folder, `**` crosses folders, `[a-z]`, `[!a]`, `{a,b}`."""

    _elements: list[_Element]

    @classmethod
    def parse(cls, glob: str) -> Self:
        """Read a glob.

        Raises:
            SourceError: a bracket or brace that is not closed, or more than a glob may hold.

        """
        if (length := len(glob.encode(errors="replace"))) > MAX_BYTES:
            raise SourceError(f"a glob may have {MAX_BYTES} bytes and this one has {length}; {_INSTEAD}")
        groups: list[list[list[_Element]]] = [[[]]]  # the glob and the braces open in it, each as its branches
        for token in _TOKEN.finditer(glob):
            text, branches, in_braces = token[0], groups[-1], len(groups) > 1
            if text == "{":
                if len(groups) > MAX_DEPTH:
                    raise SourceError(f"a glob may nest braces {MAX_DEPTH} deep and this one goes deeper; {_INSTEAD}")
                groups.append([[]])
            elif text == "}" and in_braces:
                groups.pop()
                groups[-1][-1].append(_Alternatives(branches))
            elif text == "," and in_braces:
                branches.append([])
            else:
                branches[-1].append(_element(text, token["letters"]))
        if len(groups) > 1:
            raise SourceError("the glob opens a { that it does not close")
        return cls(groups[0][0])

    def matches(self, keys: Sequence[str]) -> list[bool]:
        """Whether it matches each of the keys as a whole."""
        text = _Text(keys)
        return text.keys_ending_at(text.ends(self._elements, text.beginnings))


def _element(text: str, letters: str | None) -> _Element:
    if letters is not None:
        negated = letters[0] in "!^"
        ranges = tuple((low or single, high or single) for low, high, single in _RANGE.findall(letters[negated:]))
        if any(low > high for low, high in ranges):
            raise SourceError("the glob has a range that runs backwards; it looks like [a-z]")
        return _Letter(ranges, negated)
    if text == "[":
        raise SourceError("the glob opens a [ that it does not close")
    if text.startswith("*"):
        return _Wildcard(text)
    return _Letter((), negated=True) if text == "?" else _Letter(((text, text),), slash=True)


class _Text:
    """Keys laid end to end: a position for each character, and one for the end of each key."""

    def __init__(self, keys: Sequence[str]) -> None:
        text = "".join(f"{key}\n" for key in keys)
        self._characters = _code_points(text)
        self._key_ends = np.fromiter(accumulate(len(key) + 1 for key in keys), np.int64, len(keys)) - 1
        key_ends = np.zeros(len(text), bool)
        key_ends[self._key_ends] = True
        self.beginnings = _to_integer(np.roll(key_ends, 1))
        self._within_key = _to_integer(~key_ends)
        self._slashes = _to_integer(self._characters == ord("/")) & self._within_key
        self._within_folder = self._within_key & ~self._slashes
        self._occurrences: dict[_Letter, int] = {}

    def ends(self, elements: Iterable[_Element], positions: int) -> int:
        """Where the elements, one after the other, may end when they begin at these positions."""
        for element in elements:
            if not positions:
                break
            match element:
                case _Letter():
                    positions = (positions & self._where(element)) << 1
                case _Wildcard.WITHIN_FOLDER:
                    positions = _spread(positions, self._within_folder)
                case _Wildcard.ACROSS_FOLDERS:
                    positions = _spread(positions, self._within_key)
                case _Wildcard.FOLDERS:
                    positions |= (_spread(positions, self._within_key) & self._slashes) << 1
                case _Alternatives():
                    begin, positions = positions, 0
                    for branch in element.branches:
                        positions |= self.ends(branch, begin)
        return positions

    def keys_ending_at(self, positions: int) -> list[bool]:
        size = len(self._characters)
        packed = np.frombuffer(positions.to_bytes(size // 8 + 1, "little"), np.uint8)
        bits: list[int] = np.unpackbits(packed, bitorder="little")[self._key_ends].tolist()
        return [bit == 1 for bit in bits]

    def _where(self, letter: _Letter) -> int:
        """The positions of such a character."""
        if letter not in self._occurrences:
            characters, highest = self._characters, np.iinfo(self._characters.dtype).max
            found = np.zeros(len(characters), bool)
            for low, high in letter.ranges:
                first, last = ord(low), min(ord(high), highest)
                if first == last:
                    found |= characters == first
                elif first < last:
                    found |= (characters >= first) & (characters <= last)
            within = self._within_key if letter.slash else self._within_folder
            self._occurrences[letter] = within & _to_integer(~found if letter.negated else found)
        return self._occurrences[letter]


def _code_points(text: str) -> NDArray[np.unsignedinteger]:
    """A number for each character, as narrow as the highest allows: narrow ones are compared faster."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    return codes.astype(np.min_scalar_type(codes.max(initial=0)))


def _to_integer(bits: NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(bits, bitorder="little").tobytes(), "little")


def _spread(positions: int, stretches: int) -> int:
    """The positions, and all that are reached from them over positions of `stretches`, each a step to the next.

    The sum carries from the first position in a stretch to the end of it (Hyyrö, 2001).
    """
    return (((positions & stretches) + stretches) ^ stretches) | positions
