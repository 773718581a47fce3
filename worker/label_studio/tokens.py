"""Label Studio's kinds of user token, and the Authorization header that each needs."""

import base64
import json
import threading
import time
from collections.abc import Callable
from enum import StrEnum

from worker.label_studio.errors import TokenExpiredError, TokenShortLivedError

_RENEW_BEFORE = 30.0
"""Seconds before its expiry at which an access token is renewed: for requests under way and clock skew."""


class TokenKind(StrEnum):
    LEGACY = "legacy"
    """40 hex digits, sent unchanged."""
    PERSONAL = "personal"
    """A JSON web token that is exchanged for access tokens, which live for minutes."""
    ACCESS = "access"
    """A short-lived access token, copied instead of the personal one."""


class Tokens:
    """The Authorization header for one API key; thread-safe."""

    def __init__(self, api_key: str, exchange: Callable[[str], str], *, now: Callable[[], float] = time.time) -> None:
        """`exchange` returns an access token for a personal one. Raises: LabelStudioError."""
        self._key, self._exchange, self._now = api_key.strip(), exchange, now
        self._claims = decode_claims(self._key)
        self._lock = threading.Lock()
        self._access: str | None = None
        self._renew_at = 0.0

    @property
    def kind(self) -> TokenKind:
        if self._claims is None:
            return TokenKind.LEGACY
        return TokenKind.ACCESS if self._claims.get("token_type") == "access" else TokenKind.PERSONAL

    @property
    def is_truncated(self) -> bool:
        """Whether this is a JSON web token without its signature, as lists of tokens show it."""
        return self._claims is None and decode_claims(f"{self._key}.") is not None

    def header(self) -> str:
        """Return the next request's header.

        Raises:
            TokenExpiredError, TokenShortLivedError: the token has expired, by its own claims.
            LabelStudioError: the exchange for an access token failed.

        """
        if self.kind is TokenKind.LEGACY:
            return f"Token {self._key}"
        if _expiry(self._claims, default=float("inf")) <= self._now():
            if self.kind is TokenKind.ACCESS:
                raise TokenShortLivedError(
                    "LABEL_STUDIO_API_KEY is an expired access token, which lives for minutes only; set it to the "
                    "personal access token of Account & Settings"
                )
            raise TokenExpiredError(
                "the personal access token in LABEL_STUDIO_API_KEY has expired; create a new one in Account & Settings"
            )
        if self.kind is TokenKind.ACCESS:
            return f"Bearer {self._key}"
        with self._lock:
            if self._access is None or self._now() >= self._renew_at:
                self._access = self._exchange(self._key)
                now = self._now()
                lifetime = _expiry(decode_claims(self._access), default=now + 60.0) - now
                # A token that lives for less than a minute is used for half its life.
                self._renew_at = now + max(lifetime - _RENEW_BEFORE, lifetime / 2)
            return f"Bearer {self._access}"

    def refused(self, header: str) -> bool:
        """Note that Label Studio answered 401 to `header`; return whether the next header will differ."""
        if self.kind is not TokenKind.PERSONAL:
            return False
        with self._lock:
            if header == f"Bearer {self._access}":
                self._access = None
        return True


def decode_claims(token: str) -> dict[str, object] | None:
    """Return the claims of a JSON web token, unverified; None if `token` is none."""
    parts = token.split(".")
    if len(parts) != 3:  # noqa: PLR2004 - header, claims, signature
        return None
    try:
        document = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _expiry(claims: dict[str, object] | None, *, default: float) -> float:
    expiry = (claims or {}).get("exp")
    return float(expiry) if isinstance(expiry, int | float) else default
