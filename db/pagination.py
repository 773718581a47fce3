"""Keyset cursors: where a page ended, as an opaque word."""

import base64
import binascii
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from db.errors import CursorInvalidError

_BIGINT = 2**63


@dataclass(frozen=True)
class Cursor:
    """Of one list, and of one set of filters: a cursor of another list or filter is refused, not misread."""

    of: str

    def write(self, *keys: str | float) -> str:
        packed = json.dumps([self._mark, *keys], separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(packed).decode().rstrip("=")

    def read(self, cursor: str) -> list[Any]:
        """The keys of the last row of the page before.

        Raises:
            CursorInvalidError: it was not given out by this list with these filters.

        """
        try:
            mark, *keys = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        except (ValueError, TypeError, binascii.Error, UnicodeError, RecursionError):
            mark, keys = None, []
        if mark != self._mark or not keys or not all(map(_is_key, keys)):
            raise CursorInvalidError("this cursor belongs to another list or other filters; begin without one")
        return list(keys)

    def read_id(self, cursor: str) -> UUID:
        """Of lists whose only key is an id.

        Raises:
            CursorInvalidError: see `read`.

        """
        try:
            return UUID(str(self.read(cursor)[0]))
        except ValueError:
            raise CursorInvalidError("this cursor is damaged; begin without one") from None

    def read_number(self, cursor: str) -> int:
        """Of lists whose only key is a number.

        Raises:
            CursorInvalidError: see `read`.

        """
        key = self.read(cursor)[0]
        if not isinstance(key, int):
            raise CursorInvalidError("this cursor is damaged; begin without one")
        return key

    @property
    def _mark(self) -> str:
        return hashlib.sha256(self.of.encode()).hexdigest()[:8]


def _is_key(key: object) -> bool:
    """Whether the database can compare with it: anyone can make a cursor."""
    if isinstance(key, str):
        return key.isprintable()
    if isinstance(key, float):
        return math.isfinite(key)
    return isinstance(key, int) and not isinstance(key, bool) and -_BIGINT <= key < _BIGINT
