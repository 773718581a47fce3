"""The two kinds of token that Label Studio gives its users, told apart by their looks."""

import base64
import json
import threading
import time
from collections.abc import Callable
from enum import StrEnum

from worker.label_studio.errors import TokenExpiredError, TokenShortLivedError

_AHEAD = 30.0
"""Seconds before its end at which an access token is renewed: a request on its way, and clocks that differ."""


class TokenKind(StrEnum):
    LEGACY = "legacy"
    """Forty hex digits, sent as they are."""
    PERSONAL = "personal"
    """A JSON web token that is exchanged for access tokens of some minutes."""
    ACCESS = "access"
    """Such a token of some minutes: copied from the wrong place."""


class Tokens:
    """What to write into the Authorization header. Safe to use from many threads."""

    def __init__(self, api_key: str, exchange: Callable[[str], str], *, now: Callable[[], float] = time.time) -> None:
        """`exchange` gives an access token for the personal one. Raises: LabelStudioError."""
        self._key, self._exchange, self._now = api_key.strip(), exchange, now
        self._claims = claims(self._key)
        self._lock = threading.Lock()
        self._access: str | None = None
        self._renew_at = 0.0

    @property
    def kind(self) -> TokenKind:
        if self._claims is None:
            return TokenKind.LEGACY
        return TokenKind.ACCESS if self._claims.get("token_type") == "access" else TokenKind.PERSONAL

    @property
    def cut(self) -> bool:
        """A JSON web token without its signature, as lists of tokens show it."""
        return self._claims is None and claims(f"{self._key}.") is not None

    def header(self) -> str:
        """For the next request.

        Raises:
            TokenExpired, TokenShortLived: the token itself says that its time has passed.
            LabelStudioError: an access token was due, and was refused or not answered.

        """
        if self.kind is TokenKind.LEGACY:
            return f"Token {self._key}"
        if self._ends() <= self._now():
            if self.kind is TokenKind.ACCESS:
                raise TokenShortLivedError(
                    "LABEL_STUDIO_API_KEY is an access token, which lives for minutes and has expired; set it to the "
                    "personal access token of Account & Settings"
                )
            raise TokenExpiredError(
                "the personal access token in LABEL_STUDIO_API_KEY has expired; make a new one in Account & Settings"
            )
        if self.kind is TokenKind.ACCESS:
            return f"Bearer {self._key}"
        with self._lock:
            if self._access is None or self._now() >= self._renew_at:
                self._take(self._exchange(self._key))
            return f"Bearer {self._access}"

    def refused(self, header: str) -> bool:
        """Label Studio answered 401 to this header; whether the next one will be another."""
        if self.kind is not TokenKind.PERSONAL:
            return False
        with self._lock:
            if header == f"Bearer {self._access}":
                self._access = None
        return True

    def _take(self, access: str) -> None:
        ends = (claims(access) or {}).get("exp")
        now = self._now()
        lasts = float(ends) - now if isinstance(ends, int | float) else 60.0
        # Of a token that lives for less than a minute, half its life is used.
        self._access, self._renew_at = access, now + max(lasts - _AHEAD, lasts / 2)

    def _ends(self) -> float:
        ends = (self._claims or {}).get("exp")
        return float(ends) if isinstance(ends, int | float) else float("inf")


def claims(token: str) -> dict[str, object] | None:
    """What a JSON web token says of itself, unverified; None where it is none."""
    parts = token.split(".")
    if len(parts) != 3:  # noqa: PLR2004 - header, claims, signature
        return None
    try:
        read = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return None
    return read if isinstance(read, dict) else None
