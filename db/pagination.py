"""Keyset pagination: a cursor is the key of a page's last row, as an opaque word."""

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
    """Cursors of one list with one set of filters; those of other lists or filters are refused."""

    list_name: str
    """Names the list and its filters."""

    def write(self, *keys: str | float) -> str:
        packed = json.dumps([self._mark, *keys], separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(packed).decode().rstrip("=")

    def read(self, cursor: str) -> list[Any]:
        """Return the keys of the previous page's last row. Raises CursorInvalidError for a cursor of another list."""
        try:
            mark, *keys = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        except (ValueError, TypeError, binascii.Error, UnicodeError, RecursionError):
            mark, keys = None, []
        if mark != self._mark or not keys or not all(map(_is_key, keys)):
            raise CursorInvalidError("this cursor belongs to another list or to other filters; start without a cursor")
        return list(keys)

    def read_id(self, cursor: str) -> UUID:
        """Return the key of a list whose only key is a UUID; see `read`."""
        try:
            return UUID(str(self.read(cursor)[0]))
        except ValueError:
            raise CursorInvalidError("this cursor is damaged; start without a cursor") from None

    def read_number(self, cursor: str) -> int:
        """Return the key of a list whose only key is a number; see `read`."""
        key = self.read(cursor)[0]
        if not isinstance(key, int):
            raise CursorInvalidError("this cursor is damaged; start without a cursor")
        return key

    @property
    def _mark(self) -> str:
        return hashlib.sha256(self.list_name.encode()).hexdigest()[:8]


def _is_key(key: object) -> bool:
    """Return whether the database can compare with a key; anyone can make a cursor."""
    if isinstance(key, str):
        return key.isprintable()
    if isinstance(key, float):
        return math.isfinite(key)
    return isinstance(key, int) and not isinstance(key, bool) and -_BIGINT <= key < _BIGINT
